import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { readPth } from '../../src/checkpoint/pth.ts'
import { EMBEDDING, HEAD } from '../../src/clara/network.ts'
import { loadPublishedBase, readPublished } from '../../src/clara/published.ts'
import { ClaraError } from '../../src/errors.ts'
import type { HostTensor } from '../../src/graph/dtype.ts'
import { adapterShapes } from '../../src/lora/adapters.ts'
import { copyOf, editJson, parityFolder } from '../parity/support.ts'

const mistral = parityFolder('mistral-1')

describe('a published checkpoint', () => {
  test('gives settings, adapters by role, tables and memory rows', async () => {
    const checkpoint = await readPublished(join(mistral, 'checkpoint'))
    expect(checkpoint.config).toMatchObject({
      compr_rate: 8,
      doc_max_length: 48,
      lora_r: 4,
      different_mem_tokens: true,
    })
    expect(checkpoint.lora).toEqual({ rank: 4, alpha: 8 })
    expect(checkpoint.memory).toEqual({ count: 6, differentMemTokens: true })
    expect(checkpoint.baseFolder).toBe(join(mistral, 'base'))
    for (const role of ['encoder_adapter', 'decoder_adapter', 'query_reasoner_adapter'] as const) {
      const adapter = checkpoint.adapters.get(role) ?? new Map<string, HostTensor>()
      const shapes = adapterShapes(checkpoint.decoder, checkpoint.lora, role)
      expect(new Map([...adapter].map(([name, { dims }]) => [name, dims]))).toEqual(shapes)
    }
    const vocabulary = checkpoint.tokenizer.vocabularySize
    expect(checkpoint.embedding.dims).toEqual([vocabulary, 64])
    expect(checkpoint.head?.dims).toEqual([vocabulary, 64])
    expect(checkpoint.firstMemoryToken).toBe(checkpoint.tokenizer.idOf('<MEM0>'))
    const start = checkpoint.firstMemoryToken * 64
    expect(checkpoint.memoryRows.dims).toEqual([6, 64])
    expect(checkpoint.memoryRows.data).toEqual(checkpoint.embedding.data.slice(start, start + 6 * 64))
  })

  test('without query reasoner starts it as a copy of the encoder adapter', async () => {
    const { adapters } = await readPublished(join(mistral, 'checkpoint'))
    const [encoder, reasoner] = [adapters.get('encoder_adapter'), adapters.get('query_reasoner_adapter')]
    expect(reasoner?.size).toBeGreaterThan(0)
    for (const [name, value] of reasoner ?? []) {
      const source = encoder?.get(name.replace('query_reasoner_adapter', 'encoder_adapter'))
      expect(value.data).toEqual(source?.data)
      expect(value.data).not.toBe(source?.data)
    }
  })

  test('with a query reasoner keeps it', async () => {
    const folder = join(mistral, 'checkpoint-stage2')
    const { adapters } = await readPublished(folder)
    const stored = (await readPth(join(folder, 'adapters.pth'))).query_reasoner_adapter as Record<string, HostTensor>
    const name = 'model.layers.1.mlp.up_proj.lora_B'
    expect(adapters.get('query_reasoner_adapter')?.get(`${name}.query_reasoner_adapter.weight`)).toEqual(
      stored[`${name}.weight`],
    )
    expect(adapters.get('encoder_adapter')?.get(`${name}.encoder_adapter.weight`)).not.toEqual(stored[`${name}.weight`])
  })

  test('its tables replace those of the base; a tied head is the embedding', async () => {
    const checkpoint = await readPublished(join(mistral, 'checkpoint'))
    const base = await loadPublishedBase(checkpoint)
    expect(base.vocabulary).toBe(checkpoint.tokenizer.vocabularySize)
    expect(base.weights.get(EMBEDDING)?.data).toEqual(checkpoint.embedding.data)
    expect(base.weights.get(HEAD)?.data).toEqual(checkpoint.head?.data)
    const tied = await readPublished(join(parityFolder('llama-3'), 'checkpoint'))
    expect(tied.decoder.tie_word_embeddings).toBe(true)
    expect(tied.head).toBeUndefined()
    expect((await loadPublishedBase(tied)).weights.has(HEAD)).toBe(false)
  })

  test('its tables may lie in the adapters file alone', async () => {
    await using copy = await copyOf('mistral-1')
    await rm(join(copy.path, 'checkpoint', 'decoder_first_last_layers.pth'))
    const alone = await readPublished(join(copy.path, 'checkpoint'))
    const { embedding, head } = await readPublished(join(mistral, 'checkpoint'))
    expect(alone.embedding.data).toEqual(embedding.data)
    expect(alone.head?.data).toEqual(head?.data)
    await rm(join(copy.path, 'checkpoint-stage2', 'decoder_first_last_layers.pth'))
    await expect(readPublished(join(copy.path, 'checkpoint-stage2'))).rejects.toThrow(
      /Neither .* holds "model.embed_tokens.weight"/,
    )
  })

  test('its base may be named where it lies', async () => {
    await using copy = await copyOf('mistral-1')
    const folder = join(copy.path, 'checkpoint')
    await editJson(join(folder, 'config.json'), (config) => {
      config.decoder_model_name = 'somebody/Tiny-Base'
    })
    await expect(readPublished(folder)).rejects.toThrow(/base model of .* was not found.*somebody\/Tiny-Base.*`base`/)
    const { adapters } = await readPublished(folder, { base: join(copy.path, 'base') })
    expect(adapters.size).toBe(3)
  })
})

describe('what does not fit is an error that says so', () => {
  const broken: [string, (config: Record<string, unknown>) => void, RegExp][] = [
    [
      'rank',
      (config) => Object.assign(config, { lora_r: 5 }),
      /lora_A.weight" of .* wrong shape.*\[5, 64\].*\[4, 64\]/,
    ],
    [
      'number of memory tokens',
      (config) => Object.assign(config, { compr_rate: 12 }),
      /embed_tokens.weight" of .* wrong shape.*\[924, 64\].*\[926, 64\]/,
    ],
    ['no memory tokens', (config) => Object.assign(config, { compr_rate: 64 }), /no memory tokens/],
    ['no adapters', (config) => Object.assign(config, { lora: false }), /only checkpoints with adapters/],
    [
      'wrong type',
      (config) => Object.assign(config, { doc_max_length: 'long' }),
      /config.json" is no configuration .*doc_max_length/,
    ],
  ]
  test.each(broken)('%s', async (_, edit, message) => {
    await using copy = await copyOf('mistral-1')
    await editJson(join(copy.path, 'checkpoint', 'config.json'), edit)
    const reading = readPublished(join(copy.path, 'checkpoint'))
    await expect(reading).rejects.toThrow(message)
    await expect(reading).rejects.toBeInstanceOf(ClaraError)
  })

  test.each([
    [2, /encoder_adapter|decoder_adapter/, /holds "model.layers.2\..*no place/],
    [4, /encoder_adapter|decoder_adapter/, /lacks "model.layers.3\./],
  ])('a base of %i layers', async (layers, role, message) => {
    await using copy = await copyOf('mistral-1')
    await editJson(join(copy.path, 'base', 'config.json'), (config) =>
      Object.assign(config, { num_hidden_layers: layers }),
    )
    const reading = readPublished(join(copy.path, 'checkpoint'))
    await expect(reading).rejects.toThrow(role)
    await expect(reading).rejects.toThrow(message)
  })

  test('files that are missing or something else', async () => {
    await using copy = await copyOf('mistral-1')
    const folder = join(copy.path, 'checkpoint')
    await expect(readPublished(join(copy.path, 'nowhere'))).rejects.toThrow(/config.json" does not exist/)
    await rm(join(folder, 'adapters.pth'))
    await expect(readPublished(folder)).rejects.toThrow(/adapters.pth/)
    await writeFile(join(folder, 'adapters.pth'), 'not a checkpoint')
    await expect(readPublished(folder)).rejects.toBeInstanceOf(ClaraError)
    await rm(join(folder, 'config.json'))
    await writeFile(join(folder, 'config.json'), '{')
    await expect(readPublished(folder)).rejects.toThrow(/config.json" is not JSON/)
  })
})
