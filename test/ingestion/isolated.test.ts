import { fork } from 'node:child_process'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { documentsOf, pdfOf, scratchFolder } from './support.ts'

const { write } = scratchFolder()

test('the reading process ends with whoever started it', async () => {
  const file = new URL('../../src/ingestion/isolated/process.mjs', import.meta.url)
  const child = fork(file, ['512'], { serialization: 'advanced', execArgv: [], stdio: 'ignore' })
  const limits = { pages: 9, characters: 99, unpackedBytes: 99 }
  child.send({ kind: 'html', text: '<p>Text', limits })
  expect((await once(child, 'message'))[0]).toMatchObject({ result: { text: 'Text' } })
  // in the middle of something
  child.send({ kind: 'html', text: '<p>Some, words.'.repeat(50_000), limits })
  child.disconnect()
  const [, signal] = await once(child, 'exit')
  expect(signal).toBe('SIGKILL')
})

test('several at once are read one after the other', async () => {
  const numbers = [1, 2, 3, 4]
  const paths = numbers.map((number) => write(`${number}.pdf`, pdfOf([[`Number ${number}`]])))
  const read = await Promise.all(paths.map((path) => documentsOf([path])))
  expect(read.flat().map(({ text }) => text)).toEqual(numbers.map((number) => `Number ${number}`))
})
