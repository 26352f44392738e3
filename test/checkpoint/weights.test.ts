import { createHash } from 'node:crypto'
import { cp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openSafetensors, writeSafetensors } from '../../src/checkpoint/safetensors.ts'
import type { WeightSource } from '../../src/checkpoint/weights.ts'
import { openWeights } from '../../src/checkpoint/weights.ts'
import { float32 } from '../../src/graph/dtype.ts'
import type { GgufPart, GgufValue } from './support.ts'
import { bytesOf, expectClaraError, gguf, temporaryFile, temporaryFolder } from './support.ts'

const smolLM2 = new URL('../../models/SmolLM2-135M-Instruct.Q4_1.gguf', import.meta.url).pathname
const mistral = new URL('../fixtures/parity/mistral-1/base', import.meta.url).pathname

describe('the GGUF of SmolLM2', () => {
  let source: WeightSource
  beforeAll(async () => {
    source = await openWeights(smolLM2)
  })
  afterAll(() => source.close())

  test('has the configuration under Hugging Face’s names', () => {
    expect(source.config).toEqual({
      model_type: 'llama',
      architectures: ['LlamaForCausalLM'],
      hidden_size: 576,
      num_attention_heads: 9,
      num_key_value_heads: 3,
      head_dim: 64,
      intermediate_size: 1536,
      num_hidden_layers: 30,
      rms_norm_eps: 1e-5,
      rope_theta: 100000,
      hidden_act: 'silu',
      vocab_size: 49152,
      max_position_embeddings: 8192,
      tie_word_embeddings: true,
      bos_token_id: 1,
      eos_token_id: 2,
      pad_token_id: 2,
    })
  })

  test('has the parameters under Hugging Face’s names, with [out, in] shapes', () => {
    expect(source.names).toHaveLength(2 + 30 * 9)
    expect(source.has('lm_head.weight')).toBe(false)
    expect(source.dims('model.embed_tokens.weight')).toEqual([49152, 576])
    expect(source.dims('model.layers.29.self_attn.k_proj.weight')).toEqual([192, 576])
    expect(source.dims('model.layers.0.mlp.down_proj.weight')).toEqual([576, 1536])
    expect(() => source.dims('model.layers.30.mlp.down_proj.weight')).toThrow(/no parameter "model.layers.30/)
  })

  // Values by the Python package gguf, query and key rows put back by reversing the reshape of its converter.
  test.for([
    [
      'model.embed_tokens.weight',
      49151,
      570,
      [0.18592262268066406, -0.10078048706054688, 0.07819175720214844, 0.12858200073242188],
    ],
    [
      'model.layers.7.self_attn.q_proj.weight',
      1,
      0,
      [-0.20379638671875, 0.043548583984375, 0.38983154296875, -0.055389404296875],
    ],
    [
      'model.layers.7.self_attn.q_proj.weight',
      33,
      0,
      [-0.11578369140625, -0.11578369140625, 0.02227783203125, 0.02227783203125],
    ],
    [
      'model.layers.7.self_attn.q_proj.weight',
      575,
      572,
      [-0.001007080078125, -0.169921875, 0.066558837890625, -0.0178985595703125],
    ],
    ['model.layers.29.self_attn.k_proj.weight', 70, 5, [0.052734375, -0.07666015625, -0.07666015625, -0.1090087890625]],
    [
      'model.layers.0.mlp.down_proj.weight',
      3,
      1530,
      [-0.49664306640625, 0.12396240234375, 0.04638671875, 0.04638671875],
    ],
    ['model.norm.weight', 0, 0, [1.7578125, 1.8203125, 1.78125]],
  ] as const)('%s, row %i from column %i', async ([name, row, column, expected]) => {
    const { data, dims, dtype } = await source.read(name)
    const start = row * (dims[1] ?? 0) + column
    expect(dtype).toBe('float32')
    expect([...data.subarray(start, start + expected.length)]).toEqual(expected)
  })

  test('hands out the tokenizer’s metadata', () => {
    expect(source.tokenizerMetadata?.get('tokenizer.ggml.model')).toBe('gpt2')
    expect(source.tokenizerMetadata?.get('tokenizer.ggml.tokens')).toHaveLength(49152)
    expect(source.tokenizerMetadata?.get('tokenizer.chat_template')).toContain('<|im_start|>')
    expect(source.tokenizerMetadata?.has('general.name')).toBe(false)
  })
})

const tinyMetadata: Readonly<Record<string, GgufValue>> = {
  'general.architecture': 'llama',
  'llama.block_count': 1,
  'llama.context_length': 16,
  'llama.embedding_length': 8,
  'llama.feed_forward_length': 4,
  'llama.attention.head_count': 2,
  'llama.attention.head_count_kv': 1,
  'llama.attention.layer_norm_rms_epsilon': { float: 1e-6 },
}

function part(name: string, dims: readonly number[]): GgufPart {
  const values = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => i)
  return { name, dims, type: 0, bytes: bytesOf(values) }
}

const tinyTensors = [
  part('token_embd.weight', [3, 8]),
  part('blk.0.attn_q.weight', [8, 8]),
  part('blk.0.attn_k.weight', [4, 8]),
  part('blk.0.attn_q.bias', [8]),
]

async function openTiny(
  metadata: Readonly<Record<string, GgufValue>> = {},
  tensors: readonly GgufPart[] = tinyTensors,
): Promise<WeightSource> {
  return openWeights(await temporaryFile('tiny.gguf', gguf({ ...tinyMetadata, ...metadata }, tensors)))
}

describe('any GGUF of the llama architecture', () => {
  test('query and key rows go back from interleaved to halves, head by head', async () => {
    await using source = await openTiny()
    const rows = async (name: string) =>
      [...(await source.read(name)).data].filter((_, i) => i % 8 === 0).map((value) => Number(value) / 8)
    expect(await rows('model.layers.0.self_attn.q_proj.weight')).toEqual([0, 2, 1, 3, 4, 6, 5, 7])
    expect(await rows('model.layers.0.self_attn.k_proj.weight')).toEqual([0, 2, 1, 3])
    expect([...(await source.read('model.layers.0.self_attn.q_proj.bias')).data]).toEqual([0, 2, 1, 3, 4, 6, 5, 7])
  })

  test('an own output matrix unties the embeddings; without rope_theta the format’s default holds', async () => {
    await using source = await openTiny({}, [...tinyTensors, part('output.weight', [3, 8])])
    expect(source.config).toMatchObject({
      tie_word_embeddings: false,
      rope_theta: 10000,
      rms_norm_eps: 1e-6,
      head_dim: 4,
    })
    expect(source.has('lm_head.weight')).toBe(true)
  })

  describe('Llama 3’s rotary scaling, stored as one factor per frequency', () => {
    const metadata = { 'llama.embedding_length': 128, 'llama.rope.freq_base': { float: 500000 } }
    const factors = Float32Array.from({ length: 32 }, (_, i) => llama3Factor(500000 ** (-i / 32), 8, 1, 4, 8192))
    const open = (values: Float32Array) =>
      openTiny(metadata, [
        part('token_embd.weight', [3, 128]),
        { ...part('rope_freqs.weight', [32]), bytes: bytesOf(values) },
      ])

    test('is recovered as the parameters of its rule', async () => {
      await using source = await open(factors)
      expect(source.names).toEqual(['model.embed_tokens.weight'])
      expect(source.config.rope_scaling).toEqual({
        rope_type: 'llama3',
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 8192,
      })
    })

    test('is refused when the factors follow another rule', async () => {
      await expectClaraError(open(factors.with(20, 5)), /factors of an unknown rule.*at frequency 20/)
    })
  })

  test('errors name what is wrong', async () => {
    await expectClaraError(
      openTiny({ 'general.architecture': 'mamba' }),
      /architecture that is not known.*llama.*"mamba"/,
    )
    await expectClaraError(openTiny({ 'general.architecture': 'toString' }), /architecture that is not known/)
    await expectClaraError(
      openTiny({ 'llama.attention.head_count': 0 }),
      /impossible value of "llama.attention.head_count"/,
    )
    await expectClaraError(openTiny({ 'llama.attention.head_count': 3 }), /impossible attention/)
    await expectClaraError(openTiny({ 'llama.rope.scaling.type': 'yarn' }), /rotary embedding.*yarn/)
    await expectClaraError(openTiny({}, tinyTensors.slice(1)), /lacks "token_embd.weight"/)
    await expectClaraError(
      openTiny({}, [...tinyTensors, part('blk.0.ffn_gate_inp.weight', [2, 8])]),
      /"blk.0.ffn_gate_inp.weight".*plain llama/,
    )
    await expectClaraError(
      openTiny({}, [part('token_embd.weight', [3, 8]), part('blk.0.attn_q.weight', [6, 8])]),
      /"blk.0.attn_q.weight" does not fit its heads.*8 rows.*\[6,8\]/,
    )
    await expectClaraError(openWeights('/nowhere'), /model "\/nowhere" does not exist/)
  })
})

describe('a Hugging Face folder', () => {
  test('its config.json, names, and values as float32', async () => {
    await using source = await openWeights(mistral)
    expect(source.config).toMatchObject({ model_type: 'mistral', hidden_size: 64 })
    expect(source.tokenizerMetadata).toBeUndefined()
    expect(source.names).toContain('model.embed_tokens.weight')
    expect([...source.names]).toEqual([...source.names].sort())
    const { data } = await source.read('model.layers.1.mlp.down_proj.weight')
    expect([...data.subarray(0, 3)]).toEqual([-0.03515625, -0.1298828125, -0.04638671875])
  })

  test('may be given by its .safetensors file', async () => {
    await using source = await openWeights(join(mistral, 'model.safetensors'))
    expect(source.config.model_type).toBe('mistral')
  })

  test('without config.json, with a broken one, and with integer weights', async () => {
    const folder = await temporaryFolder()
    await writeSafetensors(
      join(folder, 'model.safetensors'),
      new Map([['w', { dtype: 'int8', dims: [1], data: Int8Array.of(1) }]]),
    )
    await expectClaraError(openWeights(folder), /config\.json" does not exist/)
    await writeFile(join(folder, 'config.json'), '{')
    await expectClaraError(openWeights(folder), /config\.json" is not JSON/)
    await writeFile(join(folder, 'config.json'), '{}')
    await using source = await openWeights(folder)
    await expectClaraError(source.read('w'), /"w".*not stored as floating point.*I8/)
  })
})

describe('the fingerprint', () => {
  const fingerprintOf = async (path: string) => {
    await using source = await openWeights(path)
    expect(await source.fingerprint()).toBe(await source.fingerprint())
    return source.fingerprint()
  }

  test('is the SHA-256 of names, types, shapes and bytes in the order of the names', async () => {
    const folder = await temporaryFolder()
    await writeFile(join(folder, 'config.json'), '{}')
    await writeSafetensors(
      join(folder, 'model.safetensors'),
      new Map([
        ['b', float32([1, 2], [2])],
        ['a', float32([3], [1, 1])],
      ]),
    )
    const expected = createHash('sha256')
      .update('["a","F32",[1,1]]\n')
      .update(Float32Array.of(3))
      .update('["b","F32",[2]]\n')
      .update(Float32Array.of(1, 2))
      .digest('hex')
    expect(await fingerprintOf(folder)).toBe(expected)
  })

  test('survives another sharding and changes with one value', async () => {
    const folder = join(await temporaryFolder(), 'copy')
    await cp(mistral, folder, { recursive: true })
    const original = await fingerprintOf(mistral)
    expect(await fingerprintOf(folder)).toBe(original)
    await using file = await openSafetensors(mistral)
    const tensors = await Promise.all(
      [...file.tensors.keys()].map(async (name) => [name, await file.read(name)] as const),
    )
    const halves = [new Map(tensors.slice(0, 10)), new Map(tensors.slice(10))] as const
    for (const [i, half] of halves.entries())
      await writeSafetensors(join(folder, `${i}.safetensors`), half, {}, { float: 'bfloat16' })
    const map = Object.fromEntries(
      halves.flatMap((half, i) => [...half.keys()].map((name) => [name, `${i}.safetensors`])),
    )
    await writeFile(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }))
    expect(await fingerprintOf(folder)).toBe(original)
    // One shard's name stands for the whole model.
    expect(await fingerprintOf(join(folder, '1.safetensors'))).toBe(original)
    const [, norm] = tensors.find(([name]) => name === 'model.norm.weight') ?? []
    norm?.data.fill(7 as never, 0, 1)
    for (const [i, half] of halves.entries())
      await writeSafetensors(join(folder, `${i}.safetensors`), half, {}, { float: 'bfloat16' })
    expect(await fingerprintOf(folder)).not.toBe(original)
  })
})

/** What Llama 3's published rule divides a frequency by. */
function llama3Factor(frequency: number, factor: number, low: number, high: number, original: number): number {
  const wavelength = (2 * Math.PI) / frequency
  if (wavelength < original / high) return 1
  if (wavelength > original / low) return factor
  const smooth = (original / wavelength - low) / (high - low)
  return frequency / (((1 - smooth) * frequency) / factor + smooth * frequency)
}
