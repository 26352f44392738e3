import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'vitest'
import { compareFolder } from '../../scripts/parity/run.ts'
import { parseDecoderConfig } from '../../src/model/config.ts'

/** Folders of numbers from the published code that lie in the repository. */
type FolderName = 'mistral-1' | 'llama-3' | 'qwen2-2' | 'qwen3-4' | 'phi3-5'

export const parityFolder = (name: FolderName): string => join(import.meta.dirname, '..', 'fixtures', 'parity', name)

/** A copy that may be changed, gone at the end of the block. */
export async function copyOf(name: FolderName): Promise<{ path: string } & AsyncDisposable> {
  const root = await mkdtemp(join(tmpdir(), 'clara-parity-'))
  const path = join(root, name)
  await cp(parityFolder(name), path, { recursive: true })
  return { path, [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }) }
}

/** Changes a JSON file in place. */
export async function editJson(path: string, edit: (content: Record<string, unknown>) => void): Promise<void> {
  const content: Record<string, unknown> = JSON.parse(await readFile(path, 'utf8'))
  edit(content)
  // a new file in its place: copies of read-only files are read-only
  await rm(path)
  await writeFile(path, JSON.stringify(content))
}

/** Compares a folder: every quantity agrees, none is left out, and there is a gradient for all that learns. */
export async function expectAgreement(folder: string): Promise<void> {
  const result = await compareFolder(folder)
  expect(result.rows.filter(({ ok }) => !ok)).toEqual([])
  expect(result.notCovered).toEqual([])
  const quantities = result.rows.map(({ quantity }) => quantity)
  expect(new Set(quantities).size).toBe(quantities.length)
  const base = parseDecoderConfig(JSON.parse(await readFile(join(folder, 'base', 'config.json'), 'utf8')))
  const linears = base.model_type === 'phi3' ? 4 : 7
  // two factors on each linear layer of every layer, two adapters; and in stage 1 the memory tokens
  const factors = 2 * linears * base.num_hidden_layers
  const gradients = (stage: string) => quantities.filter((quantity) => quantity.startsWith(`${stage}.grad.`)).length
  for (const stage of ['stage1_qa', 'stage1_paraphrase', 'stage1_2']) expect(gradients(stage)).toBe(2 * factors + 1)
  expect(gradients('stage2')).toBe(2 * factors)
  expect(gradients('stage2_pretrain_retrieval')).toBe(factors)
  expect(quantities.filter((quantity) => quantity.startsWith('train10.curve['))).toHaveLength(20)
  for (const quantity of [
    'stage2.query_rep',
    'stage2.scores',
    'topk.grad',
    'generate_stop.ids',
    'generate_from_questions.answers',
  ])
    expect(quantities).toContain(quantity)
}
