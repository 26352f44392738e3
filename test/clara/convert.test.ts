import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { numberToBfloat16, widenBfloat16 } from '../../src/checkpoint/half.ts'
import { openPth } from '../../src/checkpoint/pth.ts'
import { openSafetensors, writeSafetensors } from '../../src/checkpoint/safetensors.ts'
import { openWeights } from '../../src/checkpoint/weights.ts'
import { Clara } from '../../src/clara/clara.ts'
import { convertToModel, convertToPublished } from '../../src/clara/convert.ts'
import { loadModel } from '../../src/clara/model.ts'
import { openModel } from '../../src/clara/open.ts'
import { type PublishedCheckpoint, readPublished } from '../../src/clara/published.ts'
import { ClaraError } from '../../src/errors.ts'
import type { HostTensor } from '../../src/graph/dtype.ts'
import { bytesOf, gguf, utf8 } from '../checkpoint/support.ts'
import { copyOf, editJson, parityFolder } from '../parity/support.ts'

type Name = Parameters<typeof parityFolder>[0]

async function temporary(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'clara-convert-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** A fixture's checkpoint as a model folder of ours. */
async function ours(name: Name = 'mistral-1', checkpoint = 'checkpoint'): Promise<string> {
  const output = join(await temporary(), 'model')
  await convertToModel({ input: join(parityFolder(name), checkpoint), output })
  return output
}

type Tensors = ReadonlyMap<string, HostTensor>

/** All expected tensors, to the bit. */
function expectSame(tensors: Tensors, expected: Tensors): void {
  for (const [name, { dims, data }] of expected) {
    expect(tensors.get(name)?.dims).toEqual(dims)
    expect(Buffer.compare(bytesOf(tensors.get(name)?.data ?? new Uint8Array()), bytesOf(data)), name).toBe(0)
  }
}

const tablesOf = ({ embedding, head }: PublishedCheckpoint): Tensors =>
  new Map([['embedding', embedding], ...(head ? [['head', head] as const] : [])])

async function memories(folder: string): Promise<Float32Array[]> {
  const { compress } = JSON.parse(await readFile(join(parityFolder('mistral-1'), 'cases.json'), 'utf8'))
  const documents: string[] = compress?.docs ?? [
    'Coal was towed on the river.',
    'The opera house opened in 2008. '.repeat(20),
  ]
  await using clara = await Clara.load(folder, { weights: 'fp32', threads: 1 })
  return (await clara.compressDocuments(documents)).map(({ tokens }) => tokens)
}

const cases: [Name, string][] = [
  ['mistral-1', 'checkpoint-stage2'],
  ['llama-3', 'checkpoint'],
  ['qwen2-2', 'checkpoint-stage2'],
  ['phi3-5', 'checkpoint'],
]

describe('a published checkpoint becomes a model folder', () => {
  test.each(cases)('with every number and the same fingerprint: %s/%s', async (name, checkpoint) => {
    const input = join(parityFolder(name), checkpoint)
    const output = await ours(name, checkpoint)
    const [published, model] = [await openModel(input), await openModel(output)]
    expect(model.fingerprint).toBe(published.fingerprint)
    expect(model.config).toEqual(published.config)
    expect(model.stage).toBe(published.stage)
    expect(model.stopIds).toEqual(published.stopIds)
    expect(model.firstMemoryToken).toBe(published.firstMemoryToken)
    expect([...model.parameters.keys()].sort()).toEqual([...published.parameters.keys()].sort())
    for (const [parameter, { data }] of published.parameters)
      expect(model.parameters.get(parameter)?.data).toEqual(data)
    expectSame(model.base.weights, published.base.weights)
    // a query reasoner that is a copy of the encoder is not written
    const reasoners = [...model.parameters.keys()].filter((parameter) => parameter.includes('query_reasoner_adapter'))
    expect(reasoners.length > 0).toBe(checkpoint === 'checkpoint-stage2')
  })

  test('whose embedding may differ from that of the base', async () => {
    await using copy = await copyOf('mistral-1')
    // the base in another precision: every row a little off
    const path = join(copy.path, 'base', 'model.safetensors')
    const tensors = new Map<string, HostTensor>()
    {
      await using file = await openSafetensors(path)
      for (const name of file.tensors.keys()) tensors.set(name, await file.read(name))
    }
    for (const [name, { dims, data }] of tensors)
      if (name === 'model.embed_tokens.weight')
        tensors.set(name, { dtype: 'float32', dims, data: (data as Float32Array).map((value) => value * 1.01) })
    await rm(path)
    await writeSafetensors(path, tensors)
    const output = join(copy.path, 'model')
    await convertToModel({ input: join(copy.path, 'checkpoint'), output })
    const [published, model] = [await openModel(join(copy.path, 'checkpoint')), await loadModel(output)]
    expectSame(model.base.weights, published.base.weights)
    expect(model.fingerprint).toBe(published.fingerprint)
    const { embedding: own } = await readPublished(join(copy.path, 'checkpoint'))
    expectSame(model.base.weights, new Map([['model.embed_tokens.weight', own]]))
  })

  test('with the token <KBTC>, when it has one', async () => {
    await using copy = await copyOf('mistral-1')
    const folder = join(copy.path, 'checkpoint')
    // one token more, without a row: refused; with one row less for the memory, the tables fit again
    await editJson(join(folder, 'config.json'), (config) => Object.assign(config, { kbtc_training: true }))
    await expect(convertToModel({ input: folder, output: join(copy.path, 'model') })).rejects.toThrow(/wrong shape/)
    await editJson(join(folder, 'config.json'), (config) => Object.assign(config, { doc_max_length: 40 }))
    await convertToModel({ input: folder, output: join(copy.path, 'model') })
    const [published, model] = [await openModel(folder), await loadModel(join(copy.path, 'model'))]
    expect(model.memoryTokens).toBe(5)
    expect(model.tokenizer.idOf('<KBTC>')).toBe(925)
    expect(model.fingerprint).toBe(published.fingerprint)
  })
})

describe('a model folder becomes a published checkpoint', () => {
  test.each(cases)('that is the one it came from: %s/%s', async (name, checkpoint) => {
    const input = join(parityFolder(name), checkpoint)
    const model = await ours(name, checkpoint)
    const output = join(await temporary(), 'published')
    const { fingerprint } = await convertToPublished({ input: model, output })
    expect(fingerprint).toBe((await openModel(input)).fingerprint)
    const [before, after] = [await readPublished(input), await readPublished(output)]
    for (const [role, adapter] of before.adapters) expectSame(after.adapters.get(role) ?? new Map(), adapter)
    expectSame(tablesOf(after), tablesOf(before))
    // settings: all keys of the published configuration, with their values
    const config = async (folder: string) => JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))
    expect(await config(output)).toEqual({
      ...(await config(input)),
      attn_implementation: null,
      decoder_model_name: join(parityFolder(name), 'base'),
      pure_inference: true,
    })
    expect(existsSync(join(output, 'base'))).toBe(false)
    if (checkpoint === 'checkpoint') return
    // what torch.save wrote for a loaded checkpoint, byte for byte but for the last entry, a hash that nothing reads
    for (const file of ['adapters.pth', 'decoder_first_last_layers.pth']) {
      const [written, read] = await Promise.all([readFile(join(output, file)), readFile(join(input, file))])
      const end = read.lastIndexOf(Uint8Array.of(0x50, 0x4b, 3, 4), read.indexOf(utf8('/.data/serialization_id')))
      expect(written.subarray(0, end).equals(read.subarray(0, end))).toBe(true)
    }
  })

  test('with adapters rounded to bfloat16, and the same memory as ours with such adapters', async () => {
    const model = await ours()
    const output = join(await temporary(), 'published')
    const { fingerprint } = await convertToPublished({ input: model, output, float: 'bfloat16' })
    await using file = await openPth(join(output, 'adapters.pth'))
    const role = file.root.get('encoder_adapter')
    const factor = role instanceof Map ? role.get('model.layers.0.mlp.up_proj.lora_B.weight') : undefined
    expect(factor).toMatchObject({ storedType: 'BFloat16', dims: [128, 4] })
    // ours, rounded by hand
    const path = join(model, 'adapters.safetensors')
    const tensors = new Map<string, HostTensor>()
    {
      await using adapters = await openSafetensors(path)
      for (const name of adapters.tensors.keys()) {
        const tensor = await adapters.read(name)
        const bits = Uint16Array.from(tensor.data as Float32Array, numberToBfloat16)
        tensors.set(name, name.includes('.lora_') ? { ...tensor, data: widenBfloat16(bits) } : tensor)
      }
    }
    const exact = await memories(model)
    await writeSafetensors(path, tensors)
    const [rounded, written] = [await memories(model), await memories(output)]
    expect(written).toEqual(rounded)
    expect(written).not.toEqual(exact)
    expect((await loadModel(model)).fingerprint).toBe(fingerprint)
  })

  test('whose base was a GGUF and is now a Hugging Face folder with the same numbers', async () => {
    const model = await ours()
    const base = join(parityFolder('mistral-1'), 'base')
    const root = join(model, '..')
    await writeFile(join(root, 'base.gguf'), await mistralAsGguf(base))
    await using source = await openWeights(join(root, 'base.gguf'))
    const baseFingerprint = await source.fingerprint()
    await editJson(join(model, 'config.json'), (config) =>
      Object.assign(config, { base: '../base.gguf', base_fingerprint: baseFingerprint }),
    )
    const output = join(root, 'published')
    const converted = await convertToPublished({ input: model, output })
    expect(converted.base).toBe(join(output, 'base'))
    expect((await readdir(join(output, 'base'))).sort()).toEqual([
      'chat_template.jinja',
      'config.json',
      'generation_config.json',
      'model.safetensors',
      'special_tokens_map.json',
      'tokenizer.json',
      'tokenizer_config.json',
    ])
    await using written = await openWeights(join(output, 'base'))
    await using original = await openWeights(base)
    expect(written.names).toEqual(original.names)
    for (const name of original.names)
      expectSame(new Map([[name, await written.read(name)]]), new Map([[name, await original.read(name)]]))
    const { hidden_size, rms_norm_eps, rope_theta, max_position_embeddings } = original.config
    expect(written.config).toMatchObject({ hidden_size, rms_norm_eps, rope_theta, max_position_embeddings })
    expect(written.config).toMatchObject({ bos_token_id: 1, eos_token_id: 2, torch_dtype: 'float32' })
    {
      await using file = await openSafetensors(join(output, 'base'))
      expect(file.metadata.get('format')).toBe('pt')
    }
    expect(await memories(output)).toEqual(await memories(join(parityFolder('mistral-1'), 'checkpoint')))
    // the folder may move: the base in it is found
    await rename(output, join(root, 'moved'))
    expect((await openModel(join(root, 'moved'))).stage).toBe('stage1')
  })

  test('names a base in the Hugging Face cache as the hub does, or as it is told', async () => {
    await using copy = await copyOf('llama-3')
    const snapshot = join(copy.path, 'models--some-body--Tiny_Base', 'snapshots', 'a'.repeat(40))
    await mkdir(join(snapshot, '..'), { recursive: true })
    await rename(join(copy.path, 'base'), snapshot)
    await convertToModel({ input: join(copy.path, 'checkpoint'), output: join(copy.path, 'model'), base: snapshot })
    const publish = async (baseName?: string) =>
      (await convertToPublished({ input: join(copy.path, 'model'), output: join(copy.path, 'out'), baseName })).base
    expect(await publish()).toBe('some-body/Tiny_Base')
    expect(await publish('../base')).toBe('../base')
  })
})

describe('what does not convert is an error that says why', () => {
  test('settings that the published layout has no place for, all of them named', async () => {
    const model = await ours()
    await editJson(join(model, 'config.json'), (config) => {
      config.clara = {
        ...(config.clara as object),
        compr_rate: 7.5,
        lora_alpha: 4,
        compressor: {
          memory: 'salient',
          compressorLayers: 2,
          attention: 'bidirectional',
          memoryNorm: true,
          similarity: 'maxsim',
          proportional: true,
        },
      }
    })
    const work = convertToPublished({ input: model, output: join(model, '..', 'published') })
    for (const setting of [
      /memory 'salient'/,
      /compressorLayers 2/,
      /attention 'bidirectional'/,
      /memoryNorm true/,
      /similarity 'maxsim'/,
      /proportional true/,
      /compr_rate 7.5/,
      /lora_alpha 4/,
    ])
      await expect(work).rejects.toThrow(setting)
    await expect(work).rejects.toBeInstanceOf(ClaraError)
    expect(existsSync(join(model, '..', 'published'))).toBe(false)
  })

  test.each([
    [{ memory: 'mean' }, /memory 'mean'/],
    [{ compressorLayers: 2 }, /compressorLayers 2/],
    [{ attention: 'bidirectional' }, /attention 'bidirectional'/],
    [{ memoryNorm: true }, /memoryNorm true/],
    [{ similarity: 'maxsim' }, /similarity 'maxsim'/],
  ])('one of them is enough: %o', async (compressor, message) => {
    const model = await ours()
    await editJson(join(model, 'config.json'), (config) => {
      config.clara = { ...(config.clara as object), compressor }
    })
    await expect(convertToPublished({ input: model, output: join(model, '..', 'out') })).rejects.toThrow(message)
  })

  test('the embedded model, which is none of the published kind', async () => {
    const output = join(await temporary(), 'out')
    const work = convertToPublished({ input: 'models/clara-smollm2-135m', output })
    await expect(work).rejects.toThrow(/memory 'salient'; .*compressorLayers 8; .*similarity 'maxsim'/)
  })

  test('the wrong direction, a base, nothing, and an output that holds another model', async () => {
    const model = await ours()
    const published = join(parityFolder('mistral-1'), 'checkpoint')
    const base = join(parityFolder('mistral-1'), 'base')
    const output = await temporary()
    await expect(convertToModel({ input: model, output })).rejects.toThrow(/a model folder.*has that layout already/)
    await expect(convertToPublished({ input: published, output })).rejects.toThrow(/has that layout already/)
    await expect(convertToModel({ input: base, output })).rejects.toThrow(/Got a base model.*clara inspect/)
    await expect(convertToModel({ input: output, output: join(output, 'a') })).rejects.toThrow(/Got no config.json/)
    await using copy = await copyOf('mistral-1')
    const inPlace = { input: join(copy.path, 'checkpoint'), output: join(copy.path, 'checkpoint') }
    await expect(convertToModel(inPlace)).rejects.toThrow(/holds a checkpoint in the published layout.*Name another/)
    await expect(convertToModel({ ...inPlace, output: join(copy.path, 'base') })).rejects.toThrow(/holds a base model/)
    await expect(convertToPublished({ input: model, output: model })).rejects.toThrow(/holds a model folder/)
    expect((await openModel(inPlace.input)).stage).toBe('stage1')
  })

  test('a base that the adapters were not trained on', async () => {
    const model = await ours()
    const output = join(model, '..', 'published')
    const base = join(parityFolder('llama-3'), 'base')
    await expect(convertToPublished({ input: model, output, base })).rejects.toThrow(/belong to another base model/)
    expect(existsSync(output)).toBe(false)
  })
})

/** The base of the fixtures' Mistral as a GGUF of the `llama` architecture, whose heads are stored interleaved. */
async function mistralAsGguf(folder: string): Promise<Uint8Array> {
  const modules: Readonly<Record<string, string>> = {
    input_layernorm: 'attn_norm',
    'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k',
    'self_attn.v_proj': 'attn_v',
    'self_attn.o_proj': 'attn_output',
    post_attention_layernorm: 'ffn_norm',
    'mlp.gate_proj': 'ffn_gate',
    'mlp.up_proj': 'ffn_up',
    'mlp.down_proj': 'ffn_down',
  }
  const outer: Readonly<Record<string, string>> = {
    'model.embed_tokens.weight': 'token_embd.weight',
    'model.norm.weight': 'output_norm.weight',
    'lm_head.weight': 'output.weight',
  }
  await using source = await openWeights(folder)
  const config = source.config as Record<string, number>
  const headDim = (config.hidden_size ?? 0) / (config.num_attention_heads ?? 1)
  const parts = []
  for (const name of source.names) {
    const { data, dims } = await source.read(name)
    const [, layer, module = ''] = /layers\.(\d+)\.(.+)\.weight/.exec(name) ?? []
    const isRotated = module.endsWith('q_proj') || module.endsWith('k_proj')
    const values = isRotated ? interleaved(data as Float32Array, dims[1] ?? 1, headDim) : (data as Float32Array)
    const stored = outer[name] ?? `blk.${layer}.${modules[module]}.weight`
    parts.push({ name: stored, dims, type: 0, bytes: bytesOf(values) })
  }
  return gguf(
    {
      'general.architecture': 'llama',
      'llama.embedding_length': config.hidden_size ?? 0,
      'llama.attention.head_count': config.num_attention_heads ?? 0,
      'llama.attention.head_count_kv': config.num_key_value_heads ?? 0,
      'llama.attention.key_length': headDim,
      'llama.feed_forward_length': config.intermediate_size ?? 0,
      'llama.block_count': config.num_hidden_layers ?? 0,
      'llama.context_length': config.max_position_embeddings ?? 0,
      'llama.attention.layer_norm_rms_epsilon': { float: config.rms_norm_eps ?? 0 },
      'llama.rope.freq_base': { float: config.rope_theta ?? 0 },
    },
    parts,
  )
}

/** Each head's rows as ggml wants them: 0, d/2, 1, d/2 + 1, … */
function interleaved(data: Float32Array, width: number, headRows: number): Float32Array {
  const rows = data.length / width
  const order = Array.from({ length: rows }, (_, row) => {
    const [head, inHead] = [Math.floor(row / headRows), row % headRows]
    return head * headRows + (inHead % 2) * (headRows / 2) + Math.floor(inHead / 2)
  })
  return Float32Array.from(order.flatMap((row) => [...data.subarray(row * width, (row + 1) * width)]))
}
