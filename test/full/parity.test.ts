import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { openSafetensors, writeSafetensors } from '../../src/checkpoint/safetensors.ts'
import type { HostTensor } from '../../src/graph/dtype.ts'
import { copyOf, editJson, expectAgreement, parityFolder } from '../parity/support.ts'

describe('the published code and this one', () => {
  // two more folders are compared in test/parity
  test.each(['mistral-1', 'qwen2-2', 'qwen3-4'] as const)('agree on every number of %s', async (name) => {
    await expectAgreement(parityFolder(name))
  })

  test('agree where the base is written otherwise: in shards, at fp32, its rotary settings and end tokens elsewhere', async () => {
    await using copy = await copyOf('phi3-5')
    const base = join(copy.path, 'base')
    await editJson(join(base, 'config.json'), (config) => {
      const { rope_scaling: scaling, rope_theta, partial_rotary_factor, ...rest } = config
      const { type, ...factors } = scaling as Record<string, unknown>
      for (const key of Object.keys(config)) if (!(key in rest)) delete config[key]
      config['rope_parameters'] = { rope_type: type, ...factors, rope_theta, partial_rotary_factor }
    })
    await rm(join(base, 'generation_config.json'))
    expect(JSON.parse(await readFile(join(base, 'config.json'), 'utf8')).eos_token_id).toBe(2)
    await splitInTwo(base)
    await expectAgreement(copy.path)
  })
})

/** Replaces model.safetensors by two shards with an index. */
async function splitInTwo(folder: string): Promise<void> {
  const path = join(folder, 'model.safetensors')
  const shards = [new Map<string, HostTensor>(), new Map<string, HostTensor>()]
  const weight_map: Record<string, string> = {}
  {
    await using file = await openSafetensors(path)
    for (const [index, name] of [...file.tensors.keys()].entries()) {
      shards[index % 2]?.set(name, await file.read(name))
      weight_map[name] = `model-0000${(index % 2) + 1}-of-00002.safetensors`
    }
  }
  await rm(path)
  for (const [index, tensors] of shards.entries())
    await writeSafetensors(join(folder, `model-0000${index + 1}-of-00002.safetensors`), tensors)
  await writeFile(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map }))
}
