import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { stopTokens } from '../../src/clara/stop-tokens.ts'
import { ClaraError } from '../../src/errors.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import type { Tokenizer } from '../../src/tokenizer/types.ts'
import { tinyBase } from './tiny.ts'

let root: string
let tokenizer: Tokenizer
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'clara-stop-'))
  tokenizer = await loadTokenizer(tinyBase('llama-3'))
})
afterAll(() => rm(root, { recursive: true, force: true }))

async function folderOf(files: Record<string, string>): Promise<string> {
  const folder = await mkdtemp(join(root, 'model-'))
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text)
  return folder
}

const config = 'config.json'
const generation = 'generation_config.json'

test('answers end where the generation configuration says, else the configuration, else the tokenizer', async () => {
  const stops = async (files: Record<string, string>) => stopTokens(await folderOf(files), tokenizer)
  expect(await stops({ [generation]: '{"eos_token_id": [7, 9]}', [config]: '{"eos_token_id": 5}' })).toEqual([7, 9])
  expect(await stops({ [generation]: '{"eos_token_id": 0}', [config]: '{"eos_token_id": 5}' })).toEqual([0])
  expect(await stops({ [generation]: '{"eos_token_id": null}', [config]: '{"eos_token_id": 5}' })).toEqual([5])
  expect(await stops({ [config]: '{"eos_token_id": 5}' })).toEqual([5])
  expect(await stops({ [config]: '{"eos_token_id": "</s>"}' })).toEqual([2])
  expect(await stops({})).toEqual([2])
})

test('a damaged file is named', async () => {
  const folder = await folderOf({ [generation]: '{' })
  await expect(stopTokens(folder, tokenizer)).rejects.toThrow(ClaraError)
  await expect(stopTokens(folder, tokenizer)).rejects.toThrow(/generation_config\.json" is not JSON/)
})
