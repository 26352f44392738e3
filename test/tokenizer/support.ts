import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import type { PromptText } from '../../src/tokenizer/types.ts'

const repository = join(import.meta.dirname, '..', '..')

/** Folder of the embedded model. */
export const modelFolder = join(repository, 'models')
/** GGUF file of the embedded model. */
export const modelFile = join(modelFolder, 'SmolLM2-135M-Instruct.Q4_1.gguf')

/** Folder of the base model of one parity case. */
export function parityBase(name: string): string {
  return join(repository, 'test', 'fixtures', 'parity', name, 'base')
}

/** What JSON.parse gives for a file of the tests, below test/. */
export async function readTestJson<T>(...path: readonly string[]): Promise<T> {
  return JSON.parse(await readFile(join(repository, 'test', ...path), 'utf8'))
}

export function textOf(prompt: PromptText): string {
  return prompt.map(({ text }) => text).join('')
}

/** A folder with these files, gone after the test. Values that are not strings are written as JSON. */
export async function folderOf(files: Readonly<Record<string, unknown>>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'tokenizer-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  for (const [name, value] of Object.entries(files)) {
    await writeFile(join(folder, name), typeof value === 'string' ? value : JSON.stringify(value))
  }
  return folder
}

/** The tokenizer files of the llama parity case with another configuration. */
export async function tokenizerWith(config: object, files: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const json = await readFile(join(parityBase('llama-3'), 'tokenizer.json'), 'utf8')
  return folderOf({ 'tokenizer.json': json, 'tokenizer_config.json': config, ...files })
}
