import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { ClaraError } from '../errors.ts'
import { type DType, elementCount, type HostTensor } from '../graph/dtype.ts'
import type { EncodedModel } from '../graph/onnx.ts'
import { type Shape, showShape } from '../graph/shape.ts'

/** Where graphs run. `cpu` is always there; the others as the installed ONNX Runtime has them. */
export const devices = ['cpu', 'webgpu', 'cuda', 'coreml'] as const
export type Device = (typeof devices)[number]

export interface RuntimeOptions {
  /** Default: `cpu`. */
  readonly device?: Device
  /** Threads of one operator. Default: all cores. */
  readonly threads?: number
}

/** A tensor that stays in the runtime's thread between runs. */
export interface Resident {
  readonly resident: number
}

/** Writes an output into a resident tensor, from `start` along `axis`, instead of returning it. */
export interface Store extends Resident {
  readonly axis: number
  readonly start: number
}

export interface RunOptions {
  /** Outputs to return. Default: all that are not stored. Every output of a graph is computed in any case. */
  readonly fetch?: readonly string[]
  readonly store?: Readonly<Record<string, Store>>
}

export type Feeds = Readonly<Record<string, HostTensor | Resident>>

/** A graph made ready to run. */
export interface Session extends AsyncDisposable {
  readonly model: EncodedModel
  run(feeds: Feeds, options?: RunOptions): Promise<Record<string, HostTensor>>
  close(): Promise<void>
}

/** ONNX Runtime in a thread of its own. */
export interface Runtime extends AsyncDisposable {
  readonly device: Device
  readonly threads: number
  /** Opens a session. `weights` must hold every weight that the model names; shared memory is not copied on the way. */
  open(model: EncodedModel, weights?: ReadonlyMap<string, HostTensor>): Promise<Session>
  /** A tensor of zeros that stays in the runtime. */
  allocate(dtype: DType, dims: readonly number[]): Promise<Resident>
  /** Gives a resident tensor another length along an axis: what fits is kept, the rest is zero. */
  resize(resident: Resident, axis: number, length: number): Promise<void>
  /** A copy of a resident tensor. */
  read(resident: Resident): Promise<HostTensor>
  release(resident: Resident): Promise<void>
  /** Waits for the calls under way, then ends the thread. Later calls reject. */
  close(): Promise<void>
}

/** What the worker answers to one call. */
interface Reply {
  readonly id: number
  readonly result?: unknown
  readonly error?: string
  /** Whether the request itself was at fault, not ONNX Runtime. */
  readonly refused?: boolean
}

interface Pending {
  readonly resolve: (value: never) => void
  readonly reject: (error: Error) => void
}

/** What is shared with the worker: whether it carries out an action, and whether the process is about to end. */
const [BUSY, ENDING] = [0, 1]
/** How long the end of the process waits for the action that is under way. */
const LONGEST_ACTION_MS = 600_000

/**
 * Starts the runtime's thread. Calls are carried out one after the other, in their order.
 *
 * @throws ClaraError when the installed ONNX Runtime lacks the device, or does not load.
 */
export async function openRuntime(options: RuntimeOptions = {}): Promise<Runtime> {
  const device = options.device ?? 'cpu'
  const threads = options.threads ?? availableParallelism()
  if (!Number.isInteger(threads) || threads < 1) {
    throw new ClaraError(`A runtime cannot have ${threads} threads.`, { expected: 'a positive integer' })
  }
  const state = new Int32Array(new SharedArrayBuffer(8))
  const worker = new Worker(new URL('./worker.mjs', import.meta.url), { workerData: { state: state.buffer } })
  const pending = new Map<number, Pending>()
  let nextId = 1
  let ended: Error | undefined
  let closing: Promise<void> | undefined
  let idle = () => {}

  const settle = (id: number) => {
    const call = pending.get(id)
    pending.delete(id)
    if (pending.size === 0) {
      worker.unref()
      idle()
    }
    return call
  }
  const end = (error: Error) => {
    ended ??= error
    for (const id of [...pending.keys()]) settle(id)?.reject(ended)
  }
  worker.on('message', ({ id, result, error, refused }: Reply) => {
    const call = settle(id)
    if (error === undefined) call?.resolve(result as never)
    else call?.reject(new ClaraError(refused ? error : `ONNX Runtime failed: ${error}`))
  })
  worker.on('error', (cause: Error) =>
    end(new ClaraError('The runtime thread failed.', { received: cause.message, hint: 'Open a new runtime.', cause })),
  )
  worker.on('exit', (code) => {
    process.off('exit', waitForAction)
    end(new ClaraError(`The runtime thread ended with code ${code}.`, { hint: 'Open a new runtime.' }))
  })
  worker.unref()
  // ending the thread during a run would abort the process: begin no other action, and wait for this one
  const waitForAction = () => {
    Atomics.store(state, ENDING, 1)
    const deadline = Date.now() + LONGEST_ACTION_MS
    while (Atomics.load(state, BUSY) === 1 && Date.now() < deadline) Atomics.wait(state, BUSY, 1, 1000)
  }
  process.on('exit', waitForAction)

  const call = <Result>(action: string, message: Record<string, unknown> = {}): Promise<Result> =>
    new Promise((resolve, reject) => {
      if (ended) return reject(ended)
      if (closing) return reject(closed())
      const id = nextId++
      worker.postMessage({ id, action, message })
      pending.set(id, { resolve: resolve as (value: never) => void, reject })
      worker.ref()
    })
  const closed = () => new ClaraError('The runtime is closed.', { hint: 'Open a new one.' })
  const close = async () => {
    if (pending.size > 0) {
      await new Promise<void>((resolve) => {
        idle = resolve
      })
    }
    ended ??= closed()
    await worker.terminate()
  }

  const runtime: Runtime = {
    device,
    threads,
    async open(model, weights = new Map()) {
      const externalData = model.weights.map(({ name, dtype, dims }) => ({
        path: name,
        data: bytesOf(requireWeight(model, name, dtype, dims, weights)),
      }))
      const session = nextId++
      const sessionOptions = {
        executionProviders: [device],
        intraOpNumThreads: threads,
        executionMode: 'sequential',
        enableMemPattern: false,
        enableCpuMemArena: true,
        logSeverityLevel: 3,
      }
      await call('open', { session, bytes: model.bytes, weights: externalData, options: sessionOptions })
      return createSession(model, session, call)
    },
    async allocate(dtype, dims) {
      const resident = nextId++
      await call('allocate', { resident, value: { dtype, dims, data: new arrays[dtype](elementCount(dims)) } })
      return { resident }
    },
    resize: ({ resident }, axis, length) => call('resize', { resident, axis, length }),
    read: ({ resident }) => call('read', { resident }),
    release: ({ resident }) => call('release', { resident }),
    close() {
      closing ??= close()
      return closing
    },
    [Symbol.asyncDispose]: () => runtime.close(),
  }

  try {
    const available = await call<string[]>('backends')
    if (!available.includes(device)) {
      throw new ClaraError(`Device '${device}' is not available in the installed ONNX Runtime.`, {
        expected: `one of ${available.join(', ')}`,
        hint: "Use device 'cpu', or install an ONNX Runtime package that has this provider.",
      })
    }
  } catch (error) {
    await runtime.close()
    throw error
  }
  return runtime
}

const arrays = {
  float32: Float32Array,
  float16: Uint16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
} as const

type Call = <Result>(action: string, message: Record<string, unknown>) => Promise<Result>

function createSession(model: EncodedModel, session: number, call: Call): Session {
  const outputs = model.outputs.map(({ name }) => name)
  const self: Session = {
    model,
    async run(feeds, { fetch, store = {} } = {}) {
      requireOutputs(model, [...(fetch ?? []), ...Object.keys(store)])
      const given: Record<string, HostTensor | Resident> = {}
      const sizes = new Map<string, Size>()
      for (const { name, dtype, shape } of model.inputs) {
        const value = feeds[name]
        if (value === undefined) {
          throw new ClaraError(`Graph '${model.name}' was run without its input '${name}'.`, {
            expected: `${dtype}${showShape(shape)}`,
          })
        }
        if ('resident' in value) given[name] = value
        else {
          checkFeed(model, name, dtype, shape, value)
          checkSizes(model, name, shape, value, sizes)
          given[name] = { ...value, data: ownBytes(value.data) }
        }
      }
      const wanted = fetch ?? outputs.filter((name) => !(name in store))
      const stores = Object.fromEntries(Object.entries(store).map(([name, place]) => [`out:${name}`, place]))
      const fetches = [...new Set([...wanted, ...Object.keys(store)])].map((name) => `out:${name}`)
      const results = await call<Record<string, HostTensor>>('run', { session, feeds: given, fetches, stores })
      return Object.fromEntries(Object.entries(results).map(([name, value]) => [name.slice('out:'.length), value]))
    },
    close: () => call('close', { session }),
    [Symbol.asyncDispose]: () => self.close(),
  }
  return self
}

function checkFeed(model: EncodedModel, name: string, dtype: DType, shape: Shape, value: HostTensor): void {
  const fits =
    value.dtype === dtype &&
    value.dims.length === shape.length &&
    shape.every((dim, axis) => typeof dim === 'string' || dim === value.dims[axis])
  if (!fits) {
    throw new ClaraError(`Input '${name}' of graph '${model.name}' does not fit.`, {
      expected: `${dtype}${showShape(shape)}`,
      received: `${value.dtype}${showShape(value.dims)}`,
    })
  }
  if (value.data.length !== elementCount(value.dims)) {
    throw new ClaraError(`Input '${name}' of graph '${model.name}' has ${value.data.length} values.`, {
      expected: `${elementCount(value.dims)} for ${showShape(value.dims)}`,
    })
  }
}

interface Size {
  readonly length: number
  readonly input: string
}

/** One symbol stands for one length in all inputs of a run: ONNX Runtime plans its memory by that. */
function checkSizes(
  model: EncodedModel,
  name: string,
  shape: Shape,
  value: HostTensor,
  sizes: Map<string, Size>,
): void {
  shape.forEach((dim, axis) => {
    const length = value.dims[axis]
    if (typeof dim !== 'string' || length === undefined) return
    const known = sizes.get(dim)
    if (!known) sizes.set(dim, { length, input: name })
    else if (known.length !== length) {
      throw new ClaraError(`Input '${name}' of graph '${model.name}' does not fit: '${dim}' has two lengths.`, {
        expected: `${known.length}, as in input '${known.input}'`,
        received: String(length),
      })
    }
  })
}

/** What a message can carry and ONNX Runtime takes: not shared, and no view, which would carry all of its buffer along. */
function ownBytes(data: HostTensor['data']): HostTensor['data'] {
  const whole = data.buffer instanceof ArrayBuffer && data.byteLength === data.buffer.byteLength
  return whole ? data : data.slice()
}

function requireOutputs(model: EncodedModel, names: readonly string[]): void {
  const known = model.outputs.map(({ name }) => name)
  for (const name of names) {
    if (!known.includes(name)) {
      throw new ClaraError(`Graph '${model.name}' has no output '${name}'.`, { expected: `one of ${known.join(', ')}` })
    }
  }
}

function requireWeight(
  model: EncodedModel,
  name: string,
  dtype: DType,
  dims: readonly number[],
  weights: ReadonlyMap<string, HostTensor>,
): HostTensor {
  const weight = weights.get(name)
  if (!weight) throw new ClaraError(`Graph '${model.name}' needs the weight '${name}', which was not given.`)
  if (weight.dtype !== dtype || weight.dims.join() !== dims.join()) {
    throw new ClaraError(`Weight '${name}' does not fit graph '${model.name}'.`, {
      expected: `${dtype}${showShape(dims)}`,
      received: `${weight.dtype}${showShape(weight.dims)}`,
    })
  }
  return weight
}

const bytesOf = ({ data }: HostTensor) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

/** A copy of a tensor in shared memory, which threads and sessions use without copying it again. */
export function toShared(value: HostTensor): HostTensor {
  if (value.data.buffer instanceof SharedArrayBuffer) return value
  const shared = new Uint8Array(new SharedArrayBuffer(value.data.byteLength))
  shared.set(bytesOf(value))
  const array = arrays[value.dtype] as new (buffer: SharedArrayBuffer) => HostTensor['data']
  return { dtype: value.dtype, dims: value.dims, data: new array(shared.buffer) }
}
