import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { ClaraError } from '../errors.ts'
import { type DType, elementCount, type HostTensor } from '../graph/dtype.ts'
import { addInput, addOutput, createGraph } from '../graph/graph.ts'
import { type EncodedModel, encodeModel } from '../graph/onnx.ts'
import { createSession, type Resident, type Session } from './session.ts'
import { supplyWeights, type Weights } from './weights.ts'

export type { Part, Resident, Session, Store } from './session.ts'
export type { Weights } from './weights.ts'

/** Where graphs run. `cpu` is always there; the others as the installed ONNX Runtime and the machine have them. */
export const devices = ['cpu', 'webgpu', 'cuda', 'coreml'] as const
export type Device = (typeof devices)[number]

export interface RuntimeOptions {
  /** Default: `cpu`. */
  readonly device?: Device
  /** Threads of one operator. Default: all cores. */
  readonly threads?: number
}

export interface SessionOptions {
  /**
   * Whether the session keeps the memory of its intermediate results for the next run, or gives it back after each: slower,
   * but several sessions then never hold more than the largest of them needs. Default: true.
   */
  readonly keepMemory?: boolean
}

/** ONNX Runtime in a thread of its own. */
export interface Runtime extends AsyncDisposable {
  readonly device: Device
  readonly threads: number
  /**
   * Opens a session. `weights` must hold every weight that the model names; they lie in memory
   * (shared memory is not copied on the way) or in files of one folder, which are mapped.
   */
  open(model: EncodedModel, weights?: Weights, options?: SessionOptions): Promise<Session>
  /** A tensor of zeros that stays in the runtime. */
  allocate(dtype: DType, dims: readonly number[]): Promise<Resident>
  /**
   * A tensor that can be fed without crossing to the runtime's thread at every run, such as one of a model's many layers.
   * It is copied into shared memory unless it lies there already, and must not change afterwards.
   */
  share(value: HostTensor): Promise<Resident>
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
    async open(model, weights = new Map(), { keepMemory = true } = {}) {
      const { bytes, inMemory, folder } = supplyWeights(model, weights)
      const session = nextId++
      const sessionOptions = {
        executionProviders: [device],
        intraOpNumThreads: threads,
        executionMode: 'sequential',
        enableMemPattern: false,
        enableCpuMemArena: keepMemory,
        logSeverityLevel: 3,
        ...(folder === undefined
          ? {}
          : { extra: { session: { model_external_initializers_file_folder_path: folder } } }),
      }
      await call('open', { session, bytes, weights: inMemory, options: sessionOptions })
      return createSession(model, session, call)
    },
    async allocate(dtype, dims) {
      const resident = nextId++
      await call('allocate', { resident, value: { dtype, dims, data: new arrays[dtype](elementCount(dims)) } })
      return { resident }
    },
    async share(value) {
      const resident = nextId++
      await call('allocate', { resident, value: toShared(value) })
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

  // a provider may be listed and still lack its library or its hardware, so others than the CPU are tried
  const failureOf = async (candidate: Device): Promise<Error | undefined> => {
    const session = nextId++
    const settings = { executionProviders: [candidate], logSeverityLevel: 4 }
    try {
      await call('open', { session, bytes: smallestModel(), weights: [], options: settings })
      await call('close', { session })
      return undefined
    } catch (error) {
      return error as Error
    }
  }
  try {
    const listed = await call<string[]>('backends')
    const failure =
      device === 'cpu' ? undefined : listed.includes(device) ? await failureOf(device) : notIncluded(device)
    if (failure) {
      const available: string[] = []
      for (const candidate of devices) {
        if (candidate === 'cpu') available.push(candidate)
        else if (candidate !== device && listed.includes(candidate) && !(await failureOf(candidate)))
          available.push(candidate)
      }
      throw new ClaraError(`Device '${device}' is not available: ${failure.message.trim()}.`, {
        expected: `one of those available here: ${available.join(', ')}`,
        hint: 'Choose one of these, or install what the device needs.',
        cause: failure,
      })
    }
  } catch (error) {
    await runtime.close()
    throw error
  }
  return runtime
}

const notIncluded = (device: string) => new ClaraError(`The installed ONNX Runtime does not include '${device}'.`)

/** One input handed through. */
function smallestModel(): Uint8Array {
  const graph = createGraph('probe')
  addOutput(graph, 'same', addInput(graph, 'any', 'float32', [1]))
  return encodeModel(graph, () => []).bytes
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

const bytesOf = ({ data }: HostTensor) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

/** A copy of a tensor in shared memory, which threads and sessions use without copying it again. */
export function toShared(value: HostTensor): HostTensor {
  if (value.data.buffer instanceof SharedArrayBuffer) return value
  const shared = new Uint8Array(new SharedArrayBuffer(value.data.byteLength))
  shared.set(bytesOf(value))
  const array = arrays[value.dtype] as new (buffer: SharedArrayBuffer) => HostTensor['data']
  return { dtype: value.dtype, dims: value.dims, data: new array(shared.buffer) }
}
