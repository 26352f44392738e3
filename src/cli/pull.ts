import { z } from 'zod'
import type { PulledModel, PullProgress } from '../hub/pull.ts'
import { printable } from './terminal.ts'
import { formatBytes, transferLine, transferMeter } from './transfer.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Fetch a model from the Hugging Face hub into the shared cache'

export const options = z.strictObject({
  name: z.string().describe('Name on the hub, such as apple/CLaRa-7B-Instruct'),
  subfolder: z
    .string()
    .optional()
    .describe('Folder of the repository that holds the model, such as compression-16. Default: its top'),
  revision: z.string().default('main').describe('Branch, tag or commit'),
  withBase: z.boolean().default(false).describe('Fetch the base model of a checkpoint too'),
  base: z
    .string()
    .optional()
    .describe('Name of the base model on the hub, to fetch it too. Default: what the checkpoint names'),
})

export const positionals = ['name']

/** How often a terminal is redrawn, and a log gets a line. */
const showMs = 100
const noteMs = 30_000

/**
 * Prints the folder that the other verbs take as `--model`. Obeys HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN and HF_HUB_OFFLINE.
 */
export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const { pullModel } = await import('../hub/pull.ts')
  const { signal } = context
  const model = await shown(context, values.name, (onProgress) => {
    return pullModel(values.name, { revision: values.revision, subfolder: values.subfolder, signal, onProgress })
  })
  const wanted = values.base ?? (values.withBase ? await namedBase(model) : undefined)
  const base =
    wanted === undefined
      ? undefined
      : await shown(context, wanted, (onProgress) => pullModel(wanted, { signal, onProgress }))
  if (base === undefined) await sayHowToGetBase(model, context)
  context.report({ ...model, base: base ?? model.base ?? null })
}

/** Runs one pull with its progress on the terminal, or a line a file in a log; says at the end where the model is. */
async function shown(
  context: VerbContext,
  name: string,
  pull: (onProgress: (progress: PullProgress) => void) => Promise<PulledModel>,
): Promise<PulledModel> {
  const meter = transferMeter()
  let lastShown = Number.NEGATIVE_INFINITY
  let lastNoted = performance.now()
  context.status(`asking the hub for ${name}`)
  try {
    const model = await pull(({ path, phase, done, total }) => {
      if (phase === 'done' && !context.interactive) context.note(`${printable(path)} is whole`)
      if (phase === 'fetching') meter.at(done)
      else if (phase !== 'done') meter.rest()
      const time = performance.now()
      if (!context.interactive && phase === 'fetching' && time - lastNoted > noteMs) {
        lastNoted = time
        context.note(transferLine(done, total, meter.rate()))
      }
      if (phase !== 'waiting' && time - lastShown < showMs) return
      lastShown = time
      const what = phase === 'waiting' ? 'another process fetches ' : phase === 'checking' ? 'checking ' : ''
      context.status(`${transferLine(done, total, meter.rate())}  ${what}${printable(path)}`)
    })
    const fetched = model.files.filter((file) => file.fetched)
    const bytes = (files: PulledModel['files']) => formatBytes(files.reduce((sum, { size }) => sum + size, 0))
    context.print(
      `${name}: ${model.files.length} files, ${bytes(model.files)}, ${
        fetched.length === 0 ? 'all there already' : `${bytes(fetched)} of them fetched`
      }; hashes verified.`,
    )
    context.print(`  ${printable(model.folder)}`)
    return model
  } catch (error) {
    if (context.signal.aborted) context.note('What has arrived is kept: the same command goes on from there.')
    throw error
  }
}

async function namedBase(model: PulledModel): Promise<string | undefined> {
  const { ClaraError } = await import('../errors.ts')
  if (model.base?.hubName !== undefined) return model.base.hubName
  throw new ClaraError(`${model.name} does not say where on the hub its base model is.`, {
    expected: 'a name on the hub in decoder_model_name',
    received: model.base === undefined ? 'none' : JSON.stringify(model.base.decoderModelName),
    hint: 'Name it with --base. The checkpoint itself is there.',
  })
}

async function sayHowToGetBase({ base }: PulledModel, context: VerbContext): Promise<void> {
  if (base === undefined) return
  const { findInCache } = await import('../hub/cache.ts')
  const found = await findInCache(base.decoderModelName)
  if (found !== undefined) context.print(`Its base model is in the cache: ${printable(found)}`)
  else if (base.hubName !== undefined) {
    context.print(`It needs its base model too: clara pull ${base.hubName} (or --with-base next time).`)
  } else {
    context.print(
      `It needs its base model too, ${JSON.stringify(base.decoderModelName)}: clara pull its name on the hub.`,
    )
  }
}
