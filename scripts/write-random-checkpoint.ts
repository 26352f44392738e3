/**
 * Writes a checkpoint of random weights in the published layout, for measurements of size and speed: `base/` (bf16 shards with an index,
 * the tokenizer of the tests filled up to the vocabulary) and `checkpoint/` (adapters and tables). The default shape is Mistral-7B's, 14.5
 * GB; what such a model says means nothing.
 */
import { copyFile, mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { writeFileAtomic } from '../src/checkpoint/atomic.ts'
import { writePth } from '../src/checkpoint/pth-write.ts'
import { type PlannedTensor, streamSafetensors } from '../src/checkpoint/safetensors.ts'
import { claraConfig, memoryLength } from '../src/clara/config.ts'
import { EMBEDDING, HEAD } from '../src/clara/network.ts'
import { claraTokens } from '../src/clara/prompts.ts'
import { publishedConfigOf } from '../src/clara/published-config.ts'
import { createRandom, type Random } from '../src/data/random.ts'
import { ClaraError } from '../src/errors.ts'
import { elementCount, float32, type HostTensor } from '../src/graph/dtype.ts'
import { adapterShapes } from '../src/lora/adapters.ts'
import { layerParameters, parseDecoderConfig } from '../src/model/config.ts'
import { loadTokenizer } from '../src/tokenizer/load.ts'

/** Shape of the model; every number is a flag of the command line. */
export const mistral = {
  layers: 32,
  hidden: 4096,
  intermediate: 14336,
  heads: 32,
  'key-value-heads': 8,
  vocabulary: 32000,
  rank: 16,
  rate: 16,
  'doc-max-length': 256,
  seed: 0,
  'shard-mib': 4600,
}
export type RandomCheckpointShape = typeof mistral

/** Different random numbers; weights are stretches of them from different places. */
const NOISE = 1 << 22
const tokenizerFolder = fileURLToPath(new URL('../test/fixtures/parity/mistral-1/base', import.meta.url))

export async function writeRandomCheckpoint(
  folder: string,
  shape: RandomCheckpointShape,
  report: (line: string) => void = () => {},
): Promise<void> {
  const [base, checkpoint] = [join(folder, 'base'), join(folder, 'checkpoint')]
  await mkdir(base, { recursive: true })
  await mkdir(checkpoint, { recursive: true })
  const random = createRandom(shape.seed)
  const noise = Float32Array.from({ length: NOISE }, () => random.normal())
  const raw = {
    architectures: ['MistralForCausalLM'],
    model_type: 'mistral',
    hidden_size: shape.hidden,
    intermediate_size: shape.intermediate,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape['key-value-heads'],
    rms_norm_eps: 1e-5,
    rope_theta: 1_000_000,
    vocab_size: shape.vocabulary,
    max_position_embeddings: 32768,
    sliding_window: null,
    tie_word_embeddings: false,
    torch_dtype: 'bfloat16',
  }
  await writeFileAtomic(join(base, 'config.json'), `${JSON.stringify(raw, undefined, 2)}\n`)
  await writeTokenizer(base, shape.vocabulary)

  const decoder = parseDecoderConfig(raw)
  const tables = [EMBEDDING, HEAD].map((name) => ({ name, dims: [shape.vocabulary, shape.hidden] }))
  const parameters: { name: string; dims: readonly number[] }[] = [
    ...tables,
    ...Array.from({ length: shape.layers }, (_, layer) =>
      [...layerParameters(decoder)].map(([name, dims]) => ({ name: `model.layers.${layer}.${name}`, dims })),
    ).flat(),
    { name: 'model.norm.weight', dims: [shape.hidden] },
  ]
  const starts = new Map(parameters.map(({ name }) => [name, random.int(NOISE)]))
  /** The same weight each time it is asked for. */
  const weight = (name: string, dims: readonly number[]) =>
    name.endsWith('norm.weight')
      ? filled(dims, 1)
      : stretch(noise, starts.get(name) ?? 0, dims, 1 / Math.sqrt(shape.hidden))
  await writeShards(base, parameters, weight, shape['shard-mib'] * 2 ** 20, report)

  const config = claraConfig.parse({
    compr_rate: shape.rate,
    doc_max_length: shape['doc-max-length'],
    different_mem_tokens: true,
    lora_r: shape.rank,
    lora_alpha: 2 * shape.rank,
    generation_top_k: 5,
  })
  const settings = publishedConfigOf(config, 'stage1_2', '../base')
  await writeFileAtomic(join(checkpoint, 'config.json'), `${JSON.stringify(settings, undefined, 2)}\n`)
  report('adapters.pth')
  const adapters = (['encoder_adapter', 'decoder_adapter'] as const).map((role): [string, Map<string, HostTensor>] => {
    const entries = [...adapterShapes(decoder, { rank: shape.rank, alpha: 2 * shape.rank }, role)]
    const tensors = entries.map(([name, dims]): [string, HostTensor] => [
      name.replace(`.${role}.`, '.'),
      stretch(noise, random.int(NOISE), dims, 0.2 / Math.sqrt(shape.hidden)),
    ])
    return [role, new Map(tensors)]
  })
  await writePth(join(checkpoint, 'adapters.pth'), new Map(adapters), { float: 'bfloat16' })
  report('decoder_first_last_layers.pth')
  const tokens = claraTokens({ count: memoryLength(config), differentMemTokens: true })
  const tokenizer = (await loadTokenizer(base)).withAddedTokens(tokens)
  const resized = tables.map(({ name, dims }): [string, HostTensor] => [
    name,
    withRows(weight(name, dims), tokenizer.vocabularySize, noise, random),
  ])
  await writePth(join(checkpoint, 'decoder_first_last_layers.pth'), new Map(resized), { float: 'bfloat16' })
}

async function writeShards(
  folder: string,
  parameters: readonly { readonly name: string; readonly dims: readonly number[] }[],
  weight: (name: string, dims: readonly number[]) => HostTensor,
  shardBytes: number,
  report: (line: string) => void,
): Promise<void> {
  const shards: PlannedTensor[][] = [[]]
  let bytes = 0
  for (const { name, dims } of parameters) {
    if (bytes > shardBytes) {
      shards.push([])
      bytes = 0
    }
    bytes += elementCount(dims) * 2
    shards.at(-1)?.push({ name, dtype: 'float32', dims })
  }
  const weightMap: Record<string, string> = {}
  for (const [index, plan] of shards.entries()) {
    const number = (value: number) => String(value).padStart(5, '0')
    const file = `model-${number(index + 1)}-of-${number(shards.length)}.safetensors`
    report(file)
    const tensors = async function* () {
      for (const { name, dims } of plan) yield weight(name, dims)
    }
    await streamSafetensors(join(folder, file), plan, tensors(), { format: 'pt' }, { float: 'bfloat16' })
    for (const { name } of plan) weightMap[name] = file
  }
  const size = parameters.reduce((sum, { dims }) => sum + elementCount(dims) * 2, 0)
  const index = { metadata: { total_size: size }, weight_map: weightMap }
  await writeFileAtomic(join(folder, 'model.safetensors.index.json'), `${JSON.stringify(index, undefined, 2)}\n`)
}

/** The tokenizer of the tests, with words that no text has up to the wanted number of tokens. */
async function writeTokenizer(folder: string, vocabulary: number): Promise<void> {
  const file: { model: { vocab: Record<string, number> } } = JSON.parse(
    await readFile(join(tokenizerFolder, 'tokenizer.json'), 'utf8'),
  )
  const { vocab } = file.model
  const known = (await loadTokenizer(tokenizerFolder)).vocabularySize
  if (vocabulary < known) {
    throw new ClaraError(`A vocabulary of ${vocabulary} is too small.`, { expected: `at least ${known} tokens` })
  }
  for (let id = known; id < vocabulary; id++) vocab[`unused word ${id}`] = id
  await writeFileAtomic(join(folder, 'tokenizer.json'), JSON.stringify(file))
  for (const name of [
    'tokenizer_config.json',
    'special_tokens_map.json',
    'chat_template.jinja',
    'generation_config.json',
  ]) {
    await copyFile(join(tokenizerFolder, name), join(folder, name))
  }
}

function filled(dims: readonly number[], value: number): HostTensor {
  return float32(new Float32Array(elementCount(dims)).fill(value), dims)
}

function stretch(noise: Float32Array, start: number, dims: readonly number[], factor: number): HostTensor {
  const data = new Float32Array(elementCount(dims))
  for (let index = 0; index < data.length; index++) {
    data[index] = (noise[(start + index) % noise.length] as number) * factor
  }
  return float32(data, dims)
}

function withRows(table: HostTensor, rows: number, noise: Float32Array, random: Random): HostTensor {
  const width = table.dims[1] ?? 0
  const data = new Float32Array(rows * width)
  data.set(table.data as Float32Array)
  const added = stretch(noise, random.int(NOISE), [data.length - table.data.length], 1 / Math.sqrt(width))
  data.set(added.data as Float32Array, table.data.length)
  return float32(data, [rows, width])
}

async function main(): Promise<void> {
  const names = Object.keys(mistral) as (keyof RandomCheckpointShape)[]
  const usage = `Usage: npx tsx scripts/write-random-checkpoint.ts FOLDER ${names.map((name) => `[--${name} N]`).join(' ')}`
  const options = Object.fromEntries(names.map((name) => [name, { type: 'string' as const }]))
  const { values, positionals } = parseArgs({ allowPositionals: true, options })
  const [folder] = positionals
  if (folder === undefined) throw new ClaraError(usage)
  const shape = { ...mistral }
  for (const name of names) {
    const given = values[name]
    if (given === undefined) continue
    const number = Number(given)
    if (!Number.isInteger(number) || number < 0) {
      throw new ClaraError(`--${name} is out of range.`, { expected: 'a whole number', received: given, hint: usage })
    }
    shape[name] = number
  }
  await writeRandomCheckpoint(folder, shape, (line) => process.stderr.write(`${line}\n`))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    await main()
  } catch (error) {
    if (!(error instanceof ClaraError)) throw error
    process.stderr.write(`${error.message}\n`)
    process.exitCode = 1
  }
}
