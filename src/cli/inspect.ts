import { z } from 'zod'
import type { ListedTensor } from '../checkpoint/listing.ts'
import type { Inspection } from '../clara/inspect.ts'
import { printable } from './terminal.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Tell what is in a model file or folder, without loading it'

export const options = z.strictObject({
  path: z
    .string()
    .describe('A .gguf, .safetensors or .pth file, or the folder of a base, a model, a published checkpoint or a run'),
  base: z
    .string()
    .optional()
    .describe(
      "Folder of a checkpoint's base model. Default: where its configuration says, or in the Hugging Face cache",
    ),
  tensors: z.boolean().default(false).describe('List every tensor by itself, instead of alike ones together'),
  fingerprint: z
    .boolean()
    .optional()
    .describe('Compute fingerprints, which reads every byte. Default: for less than a gibibyte'),
})

export const positionals = ['path']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const { path, base, fingerprint } = values
  const { inspectModel } = await import('../clara/inspect.ts')
  const newest = await newestCheckpoint(path)
  const inspection = await inspectModel(newest?.parameters ?? path, { base, fingerprint })
  if (newest) context.print(`${printable(path)}: a training run; its newest checkpoint is that of step ${newest.step}.`)
  for (const [name, text] of linesOf(inspection)) context.print(printable(`${name.padEnd(14)}${text}`))
  for (const { file, tensors, metadata } of inspection.files) {
    context.print(printable(`\n${file}`))
    for (const [key, value] of Object.entries(metadata)) context.print(printable(`  ${key} = ${value}`))
    for (const line of values.tensors ? tensors.map(tensorLine) : alike(tensors)) context.print(printable(`  ${line}`))
  }
  context.report(newest ? { ...inspection, run: { folder: path, ...newest } } : inspection)
}

/** The newest checkpoint of a training run; undefined where the path is something else. */
async function newestCheckpoint(path: string): Promise<{ step: number; parameters: string } | undefined> {
  const [{ stat }, { join }, { checkpointFolder, checkpointSteps }] = await Promise.all([
    import('node:fs/promises'),
    import('node:path'),
    import('../training/checkpoint.ts'),
  ])
  const isFolder = await stat(path).then(
    (facts) => facts.isDirectory(),
    () => false,
  )
  const step = isFolder ? (await checkpointSteps(path)).at(-1) : undefined
  return step === undefined
    ? undefined
    : { step, parameters: join(checkpointFolder(path, step), 'parameters.safetensors') }
}

function linesOf(inspection: Inspection): [string, string][] {
  const { architecture, adapters = [], settings, base, memoryTokens } = inspection
  const lines: [string, string | undefined][] = [
    ['path', inspection.path],
    ['kind', inspection.kind],
    ['stage', inspection.stage],
    ['architecture', architecture ? describe(architecture) : inspection.architectureProblem],
    ['parameters', `${grouped(inspection.parameters)} in ${grouped(inspection.bytes)} bytes`],
    ['base', base && `${base.name}${base.path === undefined ? ' (not found)' : ` (${base.path})`}`],
    ['memory', memoryTokens === undefined ? undefined : `${memoryTokens} memory tokens for a document of full length`],
    ['settings', settings && shown(settings)],
    ...adapters.map(({ role, rank, layers, parameters, dtypes }): [string, string] => [
      'adapter',
      `${role}: rank ${rank}, ${layers} layers, ${grouped(parameters)} parameters, ${dtypes.join(', ')}`,
    ]),
    ['fingerprint', inspection.fingerprint],
    ['of the base', inspection.baseFingerprint],
  ]
  return lines.flatMap(([name, text]): [string, string][] => (text === undefined ? [] : [[name, text]]))
}

function describe(shape: NonNullable<Inspection['architecture']>): string {
  const heads = `${shape.num_attention_heads} heads and ${shape.num_key_value_heads} key-value heads of ${shape.head_dim}`
  const sizes = `hidden size ${shape.hidden_size}, feed-forward ${shape.intermediate_size}, vocabulary ${shape.vocab_size}`
  const tied = shape.tie_word_embeddings ? 'tied' : 'separate'
  return `${shape.model_type}, ${shape.num_hidden_layers} layers, ${heads}, ${sizes}, ${tied} embedding and head`
}

/** Settings that say something of the model; a published config.json has many others. */
const telling = [
  'compr_rate',
  'doc_max_length',
  'different_mem_tokens',
  'kbtc_training',
  'lora_r',
  'lora_alpha',
  'generation_top_k',
  'max_new_tokens',
  'pure_inference',
  'quantization',
  'compressor',
]

function shown(settings: Readonly<Record<string, unknown>>): string {
  return telling
    .flatMap((key): string[] => {
      const value = settings[key]
      if (value === undefined) return []
      if (typeof value !== 'object' || value === null) return [`${key} ${value}`]
      return Object.entries(value).map(([inner, item]) => `${inner} ${item}`)
    })
    .join(', ')
}

const tensorLine = ({ name, dtype, shape }: ListedTensor): string => `${name}  ${dtype} [${shape.join(', ')}]`

/** One line for all tensors whose names differ in numbers alone, of one type and shape. */
function alike(tensors: readonly ListedTensor[]): string[] {
  const groups = new Map<string, { first: ListedTensor; numbers: number[]; count: number }>()
  for (const tensor of tensors) {
    const number = /\.(\d+)\./.exec(tensor.name)?.[1]
    const key = tensorLine({ ...tensor, name: tensor.name.replace(/\.\d+\./, '.*.') })
    const group = groups.get(key) ?? { first: tensor, numbers: [], count: 0 }
    if (number !== undefined) group.numbers.push(Number(number))
    group.count += 1
    groups.set(key, group)
  }
  return [...groups.values()].map(({ first, numbers, count }) => {
    if (count === 1) return tensorLine(first)
    const [least, most] = [Math.min(...numbers), Math.max(...numbers)]
    const range = most - least === count - 1 ? `{${least}-${most}}` : '*'
    return `${tensorLine({ ...first, name: first.name.replace(/\.\d+\./, `.${range}.`) })}, ${count} times`
  })
}

const grouped = (value: number): string => value.toLocaleString('en-US')
