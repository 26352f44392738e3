import { z } from 'zod'
import type { KnowledgeBase } from '../knowledge/knowledge-base.ts'
import type { Answer, AskOptions, FileProgress, FilesAdded } from '../knowledge/options.ts'
import type { Source } from '../knowledge/search.ts'
import type { ModelFacts } from '../knowledge/unchanged.ts'
import { parseFilter } from './filter.ts'
import { settingsSchema } from './settings.ts'
import { printable, wrap } from './terminal.ts'
import { formatDuration, transferMeter } from './transfer.ts'
import type { VerbContext } from './verb.ts'
import { weightOptions } from './weights.ts'

/* What the verbs of the knowledge base share: their flags, the model and the store that these name, and how passages are shown. */

const { shape } = settingsSchema

export const storeFlags = { store: shape.store }
export const modelFlags = { model: shape.model, base: shape.base, weights: shape.weights, lowMemory: shape.lowMemory }
export const searchFlags = {
  topK: shape.topK,
  mode: shape.mode,
  candidates: shape.candidates,
  minScore: shape.minScore,
}
export const filterFlags = {
  filter: z
    .array(z.string())
    .default([])
    .describe('Consider only passages whose metadata meet this: KEY=VALUE, or with !=, <, <=, >, >='),
  document: z.array(z.string()).default([]).describe('Consider only passages of this document'),
}
export const answerFlags = { expand: shape.expand, maxNewTokens: shape.maxNewTokens }
export const fileFlags = {
  include: shape.include,
  exclude: shape.exclude,
  hidden: shape.hidden,
  ignoreFiles: shape.ignoreFiles,
  followLinks: shape.followLinks,
  allowNetwork: shape.allowNetwork,
}

type Values<Flags extends z.core.$ZodLooseShape> = z.infer<z.ZodObject<Flags>>

/** Loads the model that the flags name. It is the caller's to close. */
export async function loadModel(values: Values<typeof modelFlags>, context: VerbContext) {
  const { Clara } = await import('../clara/clara.ts')
  context.status('loading the model')
  return Clara.load(values.model, { base: values.base, ...weightOptions(values, context) })
}

/** Runs with the model and the knowledge base that the flags name, and closes both. */
export async function withKnowledge<Result>(
  values: Values<typeof modelFlags> & Values<typeof storeFlags> & { readonly memory?: 'int8' | 'float16' | undefined },
  context: VerbContext,
  run: (knowledge: KnowledgeBase) => Promise<Result>,
): Promise<Result> {
  const { KnowledgeBase } = await import('../knowledge/knowledge-base.ts')
  await using clara = await loadModel(values, context)
  const memory = values.memory === undefined ? {} : { memory: values.memory }
  await using knowledge = await KnowledgeBase.open(values.store, { clara, ...memory })
  return await run(knowledge)
}

/**
 * What is known of the model that the flags name without loading it; undefined where that takes as long as loading it.
 * @throws ClaraError when it is no model.
 */
export async function modelFacts(values: Values<typeof modelFlags>): Promise<ModelFacts | undefined> {
  const [{ inspectModel }, { embeddedModel }] = await Promise.all([
    import('../clara/inspect.ts'),
    import('../clara/model.ts'),
  ])
  const { fingerprint, settings } = await inspectModel(values.model ?? embeddedModel(), { base: values.base })
  const docMaxLength = settings?.doc_max_length
  return fingerprint === undefined || typeof docMaxLength !== 'number' ? undefined : { fingerprint, docMaxLength }
}

/** @throws ClaraError when there is nothing to search: said before a model is loaded. */
export async function requireStore(place: string): Promise<void> {
  const { openExistingStore } = await import('../knowledge/place.ts')
  await using store = await openExistingStore(place)
  if ((await store.count()) > 0) return
  const { ClaraError } = await import('../errors.ts')
  throw new ClaraError(`The store ${JSON.stringify(place)} is empty.`, {
    hint: 'Add documents first: clara add FILE …',
  })
}

export function searchOptions(
  values: Values<typeof searchFlags> & { readonly filter: readonly string[]; readonly document: readonly string[] },
  context: VerbContext,
): AskOptions {
  const { topK, mode, candidates, minScore } = values
  const filter = parseFilter(values.filter, values.document)
  return {
    mode,
    candidates,
    signal: context.signal,
    ...(topK === undefined ? {} : { topK }),
    ...(minScore === undefined ? {} : { minScore }),
    ...(filter === undefined ? {} : { filter }),
  }
}

export function answerOptions({ expand, maxNewTokens }: Values<typeof answerFlags>): AskOptions {
  return {
    expand: expand === 'auto' ? 'auto' : Number(expand),
    ...(maxNewTokens === undefined ? {} : { maxNewTokens }),
  }
}

/** A passage in `--json`. */
export function sourceReport({ id, documentId, chunk, text, score, start, end, metadata, ...rest }: Source) {
  return { id, document: documentId, documentId, chunk, score, offset: start, start, end, ...rest, text, metadata }
}

/** Prints passages: where each stands, its score, its text. */
export function printSources(sources: readonly Source[], context: VerbContext): void {
  const { style } = context
  for (const { id, score, text, page, headings = [] } of sources) {
    const place = [...(page === undefined ? [] : [`page ${page}`]), ...headings.slice(-1)].join(', ')
    const after = style.paint('dim', `${score.toFixed(3)}${place === '' ? '' : `  ${printable(place)}`}`)
    context.print(`${style.paint('cyan', printable(id))} ${after}`)
    for (const line of wrap(printable(text), style.width - 2)) context.print(`  ${line}`)
  }
}

/** Writes an answer as it comes, then what it was written from. */
export async function printAnswer(
  pieces: AsyncGenerator<string, Answer, undefined>,
  context: VerbContext,
): Promise<Answer> {
  const { style } = context
  let next = await pieces.next()
  for (; next.done !== true; next = await pieces.next()) context.write(printable(next.value))
  const { sources, usage } = next.value
  context.print('\n')
  printSources(sources, context)
  const { promptTokens, expanded } = usage
  const positions = `${promptTokens.memory} positions in the prompt; as text ${promptTokens.text}`
  const read = expanded === 0 ? '' : `; ${expanded} read as text`
  if (sources.length > 0) context.print(style.paint('dim', `\n${positions}${read}`))
  return next.value
}

export function answerReport({ question, answer, sources, usage }: Answer) {
  return { question, answer, sources: sources.map(sourceReport), usage }
}

const barWidth = 20
const showMs = 100
/** Without a terminal, a line so often. */
const noteMs = 10_000

/** Shows how far an add is: a bar, passages, their rate, the time still needed; without a terminal, a line from time to time. */
export function addProgress(
  context: VerbContext,
  measured: { readonly bytes: number; readonly files: number } | undefined,
): (progress: FileProgress) => void {
  const meter = transferMeter()
  let [lastShown, lastNoted] = [0, performance.now()]
  return (progress) => {
    const { done, unchanged } = progress
    meter.at(done - unchanged)
    const time = performance.now()
    if (!context.interactive && time - lastNoted > noteMs) {
      lastNoted = time
      context.note(progressLine(progress, measured?.bytes, meter.rate()))
    }
    if (time - lastShown < showMs) return
    lastShown = time
    context.status(progressLine(progress, measured?.bytes, meter.rate()))
  }
}

/**
 * One line: `[████····] 42 %  812 passages of 37 files  16.1/s  3 min left`.
 * @param bytes Of all files, where that is known.
 * @param rate Passages compressed a second.
 */
export function progressLine(progress: FileProgress, bytes: number | undefined, rate: number | undefined): string {
  const { done, total, files } = progress
  const amount = `${done} passages of ${files} files`
  const speed = rate === undefined || rate <= 0 ? '' : `  ${rate.toFixed(1)}/s`
  if (bytes === undefined) return `${amount}${speed}`
  // files that are not read yet will have as many passages a byte as those that are
  const all = progress.bytes === 0 ? total : Math.max(total, total * (bytes / progress.bytes))
  const share = all === 0 ? 0 : Math.min(1, done / all)
  const filled = Math.floor(share * barWidth)
  const bar = `[${'█'.repeat(filled)}${'·'.repeat(barWidth - filled)}] ${Math.floor(share * 100)} %`
  const left = speed === '' || rate === undefined ? '' : `  ${formatDuration((all - done) / rate)} left`
  return `${bar}  ${amount}${speed}${left}`
}

/** Tells what became of files; what could not be read also decides the exit status. */
export function printAdded(added: FilesAdded, store: string, context: VerbContext): void {
  const { documents, compressed, unchanged, files } = added
  for (const { path, reason } of files.problems)
    context.note(printable(reason.includes(path) ? reason : `${path}: ${reason}`))
  const parts = [`${files.read} files read`, `${files.unchanged} unchanged`]
  if (files.skipped > 0) parts.push(`${files.skipped} left out`)
  if (files.failed > 0) parts.push(`${files.failed} that could not be read`)
  context.print(
    `${parts.join(', ')}: ${documents} documents, ${compressed} passages compressed, ${unchanged} there already, in ${printable(store)}.`,
  )
  if (files.failed > 0) context.end('failed')
}
