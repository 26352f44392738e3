import { z } from 'zod'
import { modelFlags, storeFlags } from './knowledge.ts'
import { printable, wrap } from './terminal.ts'
import { formatBytes } from './transfer.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Check the installation, the model, the store, disk and memory'

export const options = z.strictObject({
  ...storeFlags,
  model: modelFlags.model,
  base: modelFlags.base,
})

export const positionals = []

/** What a check found. */
interface Finding {
  readonly name: string
  /** `warning`: it works, but not for long or not as well as it could. */
  readonly state: 'ok' | 'warning' | 'failed'
  readonly text: string
  /** How to mend it. */
  readonly hint?: string
}

type Values = z.infer<typeof options>

/** Less free memory than this, in multiples of the model's files, is too little for it. */
const MEMORY_PER_MODEL = 4
/** Less free disk than this is a warning. */
const LITTLE_DISK = 1e9

export async function run(values: Values, context: VerbContext): Promise<void> {
  const { style } = context
  const findings: Finding[] = []
  const show = (finding: Finding) => {
    findings.push(finding)
    const colour = { ok: 'green', warning: 'yellow', failed: 'red' } as const
    const mark = style.paint(colour[finding.state], finding.state.padEnd(8))
    const [first = '', ...more] = wrap(printable(finding.text), Math.max(40, style.width - 22))
    context.print(`${mark} ${finding.name.padEnd(12)} ${first}`)
    for (const line of more) context.print(`${' '.repeat(22)}${line}`)
    for (const line of finding.hint === undefined ? [] : wrap(`-> ${finding.hint}`, Math.max(40, style.width - 22)))
      context.print(style.paint('dim', `${' '.repeat(22)}${printable(line)}`))
  }
  show(node())
  context.status('starting ONNX Runtime')
  for (const finding of await runtime()) show(finding)
  context.status('reading the model')
  const model = await attempt('model', () => checkModel(values))
  show(model)
  show(await attempt('memory', () => memory(model.bytes ?? 0)))
  context.status('opening the store')
  const store = await attempt('store', () => checkStore(values.store, model.fingerprint))
  show(store)
  show(await attempt('disk', () => disk(values.store)))
  const failed = findings.filter(({ state }) => state === 'failed').length
  if (failed > 0) context.end('failed')
  context.print(failed === 0 ? '\nEverything that is needed works.' : `\n${failed} checks failed.`)
  context.report({
    sound: failed === 0,
    checks: findings.map(({ name, state, text, hint }) => ({ name, state, text, hint })),
  })
}

/** A check, whose own failure is what it found. */
async function attempt<Result extends Finding>(
  name: string,
  check: () => Promise<Result>,
): Promise<Finding & Partial<Result>> {
  try {
    return await check()
  } catch (error) {
    const { ClaraError } = await import('../errors.ts')
    if (!(error instanceof ClaraError)) {
      return { name, state: 'failed', text: error instanceof Error ? error.message : String(error) } as Finding &
        Partial<Result>
    }
    const { hint } = error.facts
    const text = hint === undefined ? error.message : error.message.replace(hint, '').trim()
    return { name, state: 'failed', text, ...(hint === undefined ? {} : { hint }) } as Finding & Partial<Result>
  }
}

function node(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  const isRecent = major > 20 || (major === 20 && minor >= 19)
  const text = `Node ${process.versions.node} on ${process.platform} ${process.arch}`
  if (isRecent) return { name: 'node', state: 'ok', text }
  return { name: 'node', state: 'failed', text, hint: 'Install Node 20.19 or newer from https://nodejs.org.' }
}

async function runtime(): Promise<Finding[]> {
  const { devices, openRuntime } = await import('../runtime/runtime.ts')
  const cpu = await attempt('runtime', async (): Promise<Finding> => {
    await using opened = await openRuntime()
    return { name: 'runtime', state: 'ok', text: `ONNX Runtime starts, with ${opened.threads} threads` }
  })
  if (cpu.state === 'failed') return [{ ...cpu, hint: cpu.hint ?? 'Install the packages again: npm ci.' }]
  const others = devices.filter((device) => device !== 'cpu')
  const available = await availableOf(others)
  if (available === undefined) {
    const hint = 'clara works on the CPU. Run the command again to try the others.'
    return [cpu, { name: 'devices', state: 'warning', text: 'cpu; the others could not be tried', hint }]
  }
  const missing = others.filter((device) => !available.includes(device))
  const text = [['cpu', ...available].join(', '), ...(missing.length === 0 ? [] : [`not here: ${missing.join(', ')}`])]
  return [cpu, { name: 'devices', state: 'ok', text: text.join('; ') }]
}

/** Which devices work. Tried in a process of its own, since their libraries write to standard error and can crash. */
async function availableOf(devices: readonly string[]): Promise<string[] | undefined> {
  const [{ execFile }, { promisify }] = await Promise.all([import('node:child_process'), import('node:util')])
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const module = new URL(`../runtime/runtime.${extension}`, import.meta.url).href
  const program = `
    const { openRuntime } = await import(${JSON.stringify(module)})
    for (const device of ${JSON.stringify(devices)}) {
      try {
        await (await openRuntime({ device })).close()
        console.log(device)
      } catch {}
    }
    console.log('end')`
  const words = [...process.execArgv, '--input-type=module', '-e', program]
  const result = await promisify(execFile)(process.execPath, words, { timeout: 60_000 }).catch(() => undefined)
  const lines = result?.stdout.trim().split('\n') ?? []
  return lines.pop() === 'end' ? lines : undefined
}

async function checkModel({ model, base }: Values): Promise<Finding & { fingerprint?: string; bytes: number }> {
  const [{ inspectModel }, { embeddedModel }] = await Promise.all([
    import('../clara/inspect.ts'),
    import('../clara/model.ts'),
  ])
  const name = 'model'
  const path = model ?? embeddedModel()
  const found = await inspectModel(path, { base })
  const basePath = found.base?.path
  if (found.base !== undefined && basePath === undefined) {
    const text = `${path} needs its base model ${found.base.name}, which is not there`
    const hint = 'Name its folder with --base, or fetch it: clara pull NAME.'
    return { name, state: 'failed', text, hint, bytes: found.bytes }
  }
  const inspected = basePath === undefined ? undefined : await inspectModel(basePath)
  const bytes = found.bytes + (inspected?.bytes ?? 0)
  const fingerprint = found.fingerprint === undefined ? {} : { fingerprint: found.fingerprint }
  const isOther =
    found.kind === 'model' &&
    inspected?.fingerprint !== undefined &&
    found.baseFingerprint !== undefined &&
    inspected.fingerprint !== found.baseFingerprint
  if (isOther) {
    const text = `${basePath} is damaged, or not the base that the adapters of ${path} were trained on: its checksum differs`
    const hint =
      model === undefined ? 'Install the package again.' : 'Fetch the base model again, or name another with --base.'
    return { name, state: 'failed', text, hint, bytes }
  }
  const checked = inspected?.fingerprint === undefined ? '' : ', checksums right'
  const title = model === undefined ? 'the model that comes with clara' : path
  return { name, state: 'ok', text: `${title}: ${formatBytes(bytes)}${checked}`, bytes, ...fingerprint }
}

async function memory(modelBytes: number): Promise<Finding> {
  const { freemem, totalmem } = await import('node:os')
  const text = `${formatBytes(freemem())} of ${formatBytes(totalmem())} are free`
  if (freemem() >= MEMORY_PER_MODEL * modelBytes) return { name: 'memory', state: 'ok', text }
  const hint = 'End other programs, or hold one layer at a time: --low-memory, --weights int4.'
  return { name: 'memory', state: 'warning', text, hint }
}

async function checkStore(place: string, fingerprint: string | undefined): Promise<Finding> {
  const [{ isDatabase, openStore, placeName }, { statsOf }, { access, constants }] = await Promise.all([
    import('../knowledge/place.ts'),
    import('../knowledge/stats.ts'),
    import('node:fs/promises'),
  ])
  const name = 'store'
  await using store = await openStore(place)
  if (store === undefined) {
    return { name, state: 'ok', text: `none in ${placeName(place)} yet; clara add FILE … makes it` }
  }
  const stats = await statsOf(store, place)
  const text = `${stats.place}: ${stats.documents} documents, ${stats.chunks} passages, ${formatBytes(stats.bytes)}`
  if (fingerprint !== undefined && stats.fingerprint !== fingerprint) {
    const models = `its model is ${stats.fingerprint.slice(0, 16)}…, this one ${fingerprint.slice(0, 16)}…`
    const hint = 'Name the model that wrote it with --model, or add the documents to a new store: --store DIR.'
    return { name, state: 'failed', text: `${text}; written by another model: ${models}`, hint }
  }
  const isWritable =
    isDatabase(place) ||
    (await access(place, constants.W_OK).then(
      () => true,
      () => false,
    ))
  if (!isWritable) {
    return {
      name,
      state: 'warning',
      text: `${text}; read-only`,
      hint: 'To add to it, give yourself the right to write into its folder.',
    }
  }
  if (stats.incomplete > 0) {
    const hint = 'Add their files again: clara add goes on from there.'
    return { name, state: 'warning', text: `${text}; ${stats.incomplete} documents are incomplete`, hint }
  }
  if (stats.index.problem !== undefined) {
    const hint = 'Searching works, more slowly; clara verify tells whether something is damaged.'
    return { name, state: 'warning', text: `${text}; its index could not be built: ${stats.index.problem}`, hint }
  }
  return { name, state: 'ok', text: `${text}; clara verify reads it all` }
}

async function disk(place: string): Promise<Finding> {
  const [{ isDatabase }, { statfs }, { dirname, resolve }] = await Promise.all([
    import('../knowledge/place.ts'),
    import('node:fs/promises'),
    import('node:path'),
  ])
  const name = 'disk'
  if (isDatabase(place)) return { name, state: 'ok', text: 'the store is in a database' }
  for (let folder = resolve(place); ; folder = dirname(folder)) {
    const facts = await statfs(folder).catch(() => undefined)
    if (facts === undefined && folder !== dirname(folder)) continue
    const free = facts === undefined ? 0 : facts.bavail * facts.bsize
    const text = `${formatBytes(free)} are free in ${folder}`
    if (free >= LITTLE_DISK) return { name, state: 'ok', text }
    return { name, state: 'warning', text, hint: 'Free some space, or keep the store elsewhere: --store DIR.' }
  }
}
