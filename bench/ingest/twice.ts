import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { runCommandLine } from '../../src/cli/command-line.ts'
import { verbs } from '../../src/cli/verbs.ts'
import { milliseconds } from '../measure.ts'

export interface TwiceFigures {
  /** Time of the second `clara add` of a folder in which nothing changed / of the first. */
  readonly secondOverFirst: number
  readonly firstSeconds: number
  readonly secondSeconds: number
}

/** Adds a folder of text files twice, as the command line does, the loading of the model included. */
export async function measureTwice(
  model: string,
  texts: readonly string[],
  { files, passagesPerFile }: { readonly files: number; readonly passagesPerFile: number },
  work: string,
): Promise<TwiceFigures> {
  const folder = join(work, 'documents')
  await mkdir(folder)
  for (let file = 0; file < files; file++) {
    const some = Array.from(
      { length: passagesPerFile },
      (_, part) => texts[(file * passagesPerFile + part) % texts.length],
    )
    await writeFile(join(folder, `${file}.txt`), some.join('\n\n'))
  }
  const add = () => run(['add', folder, '--store', join(work, 'twice'), '--model', model])
  const first = await milliseconds(add)
  const second = await milliseconds(add)
  return { secondOverFirst: second / first, firstSeconds: first / 1000, secondSeconds: second / 1000 }
}

async function run(words: readonly string[]): Promise<void> {
  const said: string[] = []
  const stream = { isTTY: false, columns: 80, write: (text: string) => said.push(text) }
  const status = await runCommandLine(words, {
    verbs,
    version: '0',
    stdout: stream,
    stderr: stream,
    environment: {},
    signal: new AbortController().signal,
  })
  if (status !== 0) throw new Error(`clara ${words.join(' ')} ended with ${status}: ${said.join('')}`)
}
