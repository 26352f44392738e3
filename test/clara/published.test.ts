import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { deflateRawSync } from 'node:zlib'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { readPth } from '../../src/checkpoint/pth.ts'
import { openSafetensors, writeSafetensors } from '../../src/checkpoint/safetensors.ts'
import { EMBEDDING, HEAD } from '../../src/clara/network.ts'
import { openModel } from '../../src/clara/open.ts'
import { claraTokens } from '../../src/clara/prompts.ts'
import { loadPublishedBase, readPublished } from '../../src/clara/published.ts'
import { ClaraError } from '../../src/errors.ts'
import type { HostTensor } from '../../src/graph/dtype.ts'
import { adapterShapes } from '../../src/lora/adapters.ts'
import { call, dictionary, global, pth, storage, tensor, zip } from '../checkpoint/pickle-bytes.ts'
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

describe('where the base is looked for', () => {
  test('in the Hugging Face cache, by the name that the checkpoint gives', async () => {
    await using copy = await copyOf('mistral-1')
    const folder = join(copy.path, 'checkpoint')
    await editJson(join(folder, 'config.json'), (config) =>
      Object.assign(config, { decoder_model_name: 'somebody/Tiny-Base' }),
    )
    const model = join(copy.path, 'cache', 'models--somebody--Tiny-Base')
    const snapshot = join(model, 'snapshots', 'c'.repeat(40))
    await mkdir(join(model, 'refs'), { recursive: true })
    await mkdir(join(model, 'snapshots'))
    await writeFile(join(model, 'refs', 'main'), 'c'.repeat(40))
    await rename(join(copy.path, 'base'), snapshot)
    vi.stubEnv('HF_HUB_CACHE', join(copy.path, 'cache'))
    onTestFinished(() => void vi.unstubAllEnvs())
    expect((await readPublished(folder)).baseFolder).toBe(snapshot)
    // given by hand, a name will do as well as a folder
    expect((await readPublished(folder, { base: 'somebody/Tiny-Base' })).baseFolder).toBe(snapshot)
    vi.stubEnv('HF_HUB_CACHE', join(copy.path, 'elsewhere'))
    await expect(readPublished(folder)).rejects.toThrow(/nor in the Hugging Face cache/)
  })

  test('in the checkpoint itself, when its path is that of another machine', async () => {
    await using copy = await copyOf('mistral-1')
    const folder = join(copy.path, 'checkpoint')
    await editJson(join(folder, 'config.json'), (config) =>
      Object.assign(config, { decoder_model_name: '/somewhere/else/inner' }),
    )
    await rename(join(copy.path, 'base'), join(folder, 'inner'))
    expect((await readPublished(folder)).baseFolder).toBe(join(folder, 'inner'))
  })
})

describe('a hostile or broken checkpoint is refused', () => {
  const adapters = 'adapters.pth'

  test.each<[string, string, (bytes: Buffer) => Uint8Array, RegExp]>([
    [
      'names os.system',
      adapters,
      () => pth(call(global('os', 'system'), 'true')),
      /asks to run "os.system".*do not trust/,
    ],
    ['is a zip bomb', adapters, () => bomb(), /adapters.pth" is too large.*Got 2147483648/],
    [
      'is cut short',
      adapters,
      (bytes) => bytes.subarray(0, bytes.length / 2),
      /adapters.pth" is not a zip file, or its end/,
    ],
    ['has no adapters', adapters, () => pth(dictionary({ x: 1 })), /has no encoder_adapter/],
    [
      'holds a table without rows for the memory tokens',
      'decoder_first_last_layers.pth',
      () => pth(dictionary({ [EMBEDDING]: tensor(storage('Float', '0', 917 * 64), 0, [917, 64], [64, 1]) }), table),
      /embed_tokens.weight" of .* has no rows for the memory tokens.*926 rows: 917 of the base's tokenizer.*Got 917/,
    ],
  ])('that %s', async (_, file, bytes, message) => {
    await using copy = await copyOf('mistral-1')
    const path = join(copy.path, 'checkpoint', file)
    const changed = bytes(await readFile(path))
    await rm(path)
    await writeFile(path, changed)
    const opening = openModel(join(copy.path, 'checkpoint'))
    await expect(opening).rejects.toThrow(message)
    await expect(opening).rejects.toBeInstanceOf(ClaraError)
  })

  const table = { 0: new Uint8Array(917 * 64 * 4) }
  /** A pickle of a few kilobytes that says it unpacks to two gibibytes. */
  const bomb = () =>
    zip([{ name: 'a/data.pkl', bytes: deflateRawSync(new Uint8Array(1 << 20)), method: 8, size: 2 ** 31 }])

  test('that has a tokenizer without the memory tokens, or with others', async () => {
    await using copy = await copyOf('mistral-1')
    const folder = join(copy.path, 'checkpoint')
    const source = JSON.parse(await readFile(join(copy.path, 'base', 'tokenizer.json'), 'utf8'))
    const write = (tokens: readonly string[]) => {
      const added = tokens.map((content, index) => ({ id: 917 + index, content, special: true }))
      const json = { ...source, added_tokens: [...source.added_tokens, ...added] }
      return writeFile(join(folder, 'tokenizer.json'), JSON.stringify(json))
    }
    await write([])
    await expect(openModel(folder)).rejects.toThrow(
      /lacks the memory tokens.*"<MEM0>" to have the id 917.*no such token/,
    )
    await write(['<MEM0>', '<MEM2>', '<MEM1>'])
    await expect(openModel(folder)).rejects.toThrow(/lacks the memory tokens.*"<MEM1>" to have the id 918.*Got id 919/)
    await write(claraTokens({ count: 6, differentMemTokens: true }))
    expect((await openModel(folder)).memoryTokens).toBe(6)
  })

  test('whose base knows some of the tokens already, elsewhere', async () => {
    await using copy = await copyOf('mistral-1')
    await editJson(join(copy.path, 'base', 'tokenizer.json'), (json) => {
      const tokens = json.added_tokens as unknown[]
      tokens.push({ id: 917, content: '<SEP>', special: true, normalized: false, lstrip: false, rstrip: false })
    })
    await expect(readPublished(join(copy.path, 'checkpoint'))).rejects.toThrow(/knows "<SEP>" already, out of order/)
  })

  test('whose base is another model of the same shape', async () => {
    await using copy = await copyOf('mistral-1')
    const path = join(copy.path, 'base', 'model.safetensors')
    const tensors = new Map<string, HostTensor>()
    {
      await using file = await openSafetensors(path)
      for (const name of file.tensors.keys()) tensors.set(name, await file.read(name))
    }
    const embedding = tensors.get(EMBEDDING)
    // the rows of other tokens are those of another model
    const data = embedding?.data.slice().reverse() as Float32Array
    tensors.set(EMBEDDING, { dtype: 'float32', dims: embedding?.dims ?? [], data })
    await rm(path)
    await writeSafetensors(path, tensors)
    await expect(openModel(join(copy.path, 'checkpoint'))).rejects.toThrow(
      /belong to another base model than .*base".*91\d of 917 rows that are others/,
    )
    // one of another shape
    const other = join(parityFolder('llama-3'), 'base')
    await expect(openModel(join(copy.path, 'checkpoint'), { base: other })).rejects.toThrow(
      /wrong shape|lacks|no place/,
    )
  })

  test('whose base lacks a shard, or is of an unknown family', async () => {
    await using copy = await copyOf('mistral-1')
    const base = join(copy.path, 'base')
    const map = { [EMBEDDING]: 'model-00001-of-00002.safetensors', [HEAD]: 'model-00002-of-00002.safetensors' }
    await writeFile(join(base, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }))
    await rename(join(base, 'model.safetensors'), join(base, 'model-00001-of-00002.safetensors'))
    await expect(openModel(join(copy.path, 'checkpoint'))).rejects.toThrow(
      /model-00002-of-00002.safetensors" does not exist/,
    )
    await editJson(join(base, 'config.json'), (config) => Object.assign(config, { model_type: 'mamba' }))
    await expect(openModel(join(copy.path, 'checkpoint'))).rejects.toThrow(/family 'mamba' is unknown.*mistral/)
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
    ['no separators', (config) => Object.assign(config, { sep: false }), /sep: only checkpoints with separators/],
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
