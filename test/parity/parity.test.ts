import { execFile } from 'node:child_process'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { failures } from '../../scripts/parity/report.ts'
import { compareFolder } from '../../scripts/parity/run.ts'
import { openSafetensors, writeSafetensors } from '../../src/checkpoint/safetensors.ts'
import type { HostTensor } from '../../src/graph/dtype.ts'
import { copyOf, editJson, expectAgreement, parityFolder } from './support.ts'

const script = join(import.meta.dirname, '..', '..', 'scripts', 'parity.ts')

/** Runs the command: exit status and what it printed. */
function parity(...words: string[]): Promise<{ status: number; out: string; err: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, ['--import', 'tsx', script, ...words], { maxBuffer: 1 << 24 }, (error, out, err) => {
      resolve({ status: error === null ? 0 : Number(error.code), out, err })
    })
  })
}

/** Changes tensors of expected.safetensors. */
async function editTensors(folder: string, edit: (tensors: Map<string, HostTensor>) => void): Promise<void> {
  const path = join(folder, 'expected.safetensors')
  const tensors = new Map<string, HostTensor>()
  {
    await using file = await openSafetensors(path)
    for (const name of file.tensors.keys()) tensors.set(name, await file.read(name))
  }
  edit(tensors)
  await rm(path)
  await writeSafetensors(path, tensors)
}

/** The tensor with its largest value moved by this share of it. */
function nudge(tensors: Map<string, HostTensor>, name: string, share: number): void {
  const tensor = tensors.get(name)
  if (!(tensor?.data instanceof Float32Array)) throw new Error(`${name} is no float32 tensor`)
  const data = tensor.data.slice()
  const largest = data.reduce((best, value, at) => (Math.abs(value) > Math.abs(data[best] ?? 0) ? at : best), 0)
  data[largest] = (data[largest] ?? 0) * (1 + share)
  tensors.set(name, { ...tensor, data })
}

describe('the published code and this one', () => {
  // the other folders are compared in test/full
  test.each(['llama-3', 'phi3-5'] as const)('agree on every number of %s', async (name) => {
    await expectAgreement(parityFolder(name))
  })
})

describe('the comparison can fail', () => {
  test('expected numbers that were changed a little are found, and no others', async () => {
    await using copy = await copyOf('mistral-1')
    const gradient = 'stage1_2.grad.model.layers.1.mlp.up_proj.lora_B.encoder_adapter.weight'
    await editTensors(copy.path, (tensors) => {
      nudge(tensors, 'compress.memory', 3e-4)
      nudge(tensors, 'stage1_qa.logits_tail', 3e-4)
      nudge(tensors, gradient, 3e-3)
      nudge(tensors, 'stage2.scores', 3e-4)
      nudge(tensors, 'topk.grad', 3e-3)
      // within the tolerance
      nudge(tensors, 'stage1_qa.grad.MEM', 1e-3)
    })
    await editJson(join(copy.path, 'cases.json'), (cases) => {
      const of = (name: string) => cases[name] as Record<string, unknown>
      of('stage1_qa').loss = Number(of('stage1_qa').loss) * (1 + 2e-5)
      cases['stage1_paraphrase.grad_norm'] = Number(cases['stage1_paraphrase.grad_norm']) * (1 + 2e-4)
      const curve = of('train10').curve as number[][]
      if (curve[7]) curve[7] = [curve[7][0] ?? 0, (curve[7][1] ?? 0) * (1 + 2e-4)]
      of('generate_from_swapped').answers = of('generate_from_text').answers
      cases.something_new = 1
    })
    const { status, out } = await parity(copy.path, '--json')
    const result = JSON.parse(out) as Awaited<ReturnType<typeof compareFolder>> & { failed: number }
    const failed = result.rows.filter(({ ok }) => !ok).map(({ quantity }) => quantity)
    expect(new Set(failed)).toEqual(
      new Set([
        'compress.memory',
        'stage1_qa.loss',
        'stage1_qa.logits_tail',
        gradient,
        'stage1_paraphrase.grad_norm',
        'train10.curve[7].mse_loss',
        'topk.grad',
        'stage2.scores',
        'generate_from_swapped.answers',
      ]),
    )
    expect(result.notCovered).toEqual(['something_new'])
    expect(result.failed).toBe(9)
    expect(status).toBe(1)
  })

  test('a folder that lost an expectation reports it and goes on', async () => {
    await using copy = await copyOf('llama-3')
    await editTensors(copy.path, (tensors) => {
      tensors.delete('topk.weights')
    })
    const result = await compareFolder(copy.path)
    expect(result.rows.filter(({ ok }) => !ok)).toMatchObject([{ quantity: 'topk', note: /topk.weights/ }])
    expect(failures(result)).toBe(1)
  })

  test('a base of an unknown family is a clear error', async () => {
    await using copy = await copyOf('mistral-1')
    await editJson(join(copy.path, 'base', 'config.json'), (config) => Object.assign(config, { model_type: 'mamba' }))
    const { status, out, err } = await parity(copy.path)
    expect(status).toBe(1)
    expect(out).toBe('')
    expect(err).toMatch(/^The model family 'mamba' is unknown\. Expected model_type to be one of llama, mistral.*\n$/)
  })

  test('a command line without a folder says how it is used', async () => {
    const { status, err } = await parity('--jsn')
    expect(status).toBe(2)
    expect(err).toMatch(/--jsn[\s\S]*Usage: npm run parity/)
  })
})
