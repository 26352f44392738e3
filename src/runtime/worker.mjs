// The thread that ONNX Runtime runs in. session.run() blocks its thread, so the event loop of the program lives elsewhere.
// Plain JavaScript, because a TypeScript worker does not load without a build step.
import { parentPort, workerData } from 'node:worker_threads'
import * as ort from 'onnxruntime-node'

/** @typedef {{ dtype: string, dims: readonly number[], data: any }} Value */

/** @type {Map<number, ort.InferenceSession>} */
const sessions = new Map()
/** Tensors that stay in this thread between runs, such as key-value caches. @type {Map<number, Value>} */
const residents = new Map()
const busy = new Int32Array(workerData.busy)

/** @param {Value} value */
const toTensor = (value) => new ort.Tensor(/** @type {any} */ (value.dtype), value.data, value.dims)

/** @type {Record<string, (message: any) => Promise<{ result: any, transfer?: ArrayBuffer[] }>>} */
const actions = {
  async backends() {
    return { result: ort.listSupportedBackends().map(({ name }) => name) }
  },

  async open({ session, bytes, weights, options }) {
    const created = await ort.InferenceSession.create(bytes, { ...options, externalData: weights })
    sessions.set(session, created)
    return { result: { inputs: created.inputNames, outputs: created.outputNames } }
  },

  async run({ session, feeds, fetches, stores }) {
    const target = sessions.get(session)
    if (!target) throw new Error(`session ${session} is closed`)
    /** @type {Record<string, ort.Tensor>} */
    const inputs = {}
    for (const [name, value] of Object.entries(feeds)) {
      const resident = 'resident' in value ? residents.get(value.resident) : undefined
      if ('resident' in value && !resident) throw new Error(`resident tensor ${value.resident} is closed`)
      inputs[name] = toTensor(resident ?? value)
    }
    const outputs = await target.run(inputs, fetches)
    /** @type {Record<string, Value>} */
    const result = {}
    /** @type {ArrayBuffer[]} */
    const transfer = []
    for (const [name, tensor] of Object.entries(outputs)) {
      const store = stores[name]
      const value = { dtype: tensor.type, dims: tensor.dims, data: /** @type {any} */ (tensor.data) }
      if (store) {
        storeSlice(store, value)
        continue
      }
      // a view into a larger buffer would carry all of it along
      if (value.data.byteLength !== value.data.buffer.byteLength) value.data = value.data.slice()
      result[name] = value
      transfer.push(value.data.buffer)
    }
    return { result, transfer }
  },

  async allocate({ resident, value }) {
    residents.set(resident, value)
    return { result: undefined }
  },

  /** Gives a resident tensor another length along an axis; what fits is kept, the rest is zero. */
  async resize({ resident, axis, length }) {
    const old = residents.get(resident)
    if (!old) throw new Error(`resident tensor ${resident} is closed`)
    const dims = old.dims.map((dim, index) => (index === axis ? length : dim))
    const data = new old.data.constructor(dims.reduce((product, dim) => product * dim, 1))
    const grown = { dtype: old.dtype, dims, data }
    copySlice(old, grown, axis, 0)
    residents.set(resident, grown)
    return { result: undefined }
  },

  async read({ resident }) {
    const value = residents.get(resident)
    if (!value) throw new Error(`resident tensor ${resident} is closed`)
    return { result: { ...value, data: value.data.slice() } }
  },

  async release({ resident }) {
    residents.delete(resident)
    return { result: undefined }
  },

  async close({ session }) {
    await sessions.get(session)?.release()
    sessions.delete(session)
    return { result: undefined }
  },
}

/** @param {{ resident: number, axis: number, start: number }} store @param {Value} value */
function storeSlice({ resident, axis, start }, value) {
  const target = residents.get(resident)
  if (!target) throw new Error(`resident tensor ${resident} is closed`)
  copySlice(value, target, axis, start)
}

/**
 * Copies `from` into `to` beginning at `start` along `axis`; the other axes have equal lengths.
 * @param {Value} from @param {Value} to @param {number} axis @param {number} start
 */
function copySlice(from, to, axis, start) {
  const inner = from.dims.slice(axis + 1).reduce((product, dim) => product * dim, 1)
  const outer = from.dims.slice(0, axis).reduce((product, dim) => product * dim, 1)
  const length = from.dims[axis] ?? 0
  const room = to.dims[axis] ?? 0
  const kept = Math.min(length, room - start)
  if (kept < length && start > 0) throw new Error(`${length} positions from ${start} do not fit in ${room}`)
  for (let block = 0; block < outer; block++) {
    const source = from.data.subarray(block * length * inner, (block * length + kept) * inner)
    to.data.set(source, (block * room + start) * inner)
  }
}

parentPort?.on('message', async ({ id, action, message }) => {
  Atomics.store(busy, 0, 1)
  try {
    const handler = actions[action]
    if (!handler) throw new Error(`unknown action ${action}`)
    const { result, transfer } = await handler(message)
    parentPort?.postMessage({ id, result }, transfer ?? [])
  } catch (error) {
    parentPort?.postMessage({ id, error: error instanceof Error ? error.message : String(error) })
  } finally {
    Atomics.store(busy, 0, 0)
    Atomics.notify(busy, 0)
  }
})
