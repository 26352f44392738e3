// The thread that ONNX Runtime runs in. session.run() blocks its thread, so the event loop of the program lives elsewhere.
// Plain JavaScript, because a TypeScript worker does not load without a build step.
import { MessageChannel, parentPort, workerData } from 'node:worker_threads'
import * as ort from 'onnxruntime-node'

/** @typedef {{ dtype: string, dims: readonly number[], data: any }} Value */

/** @type {Map<number, ort.InferenceSession>} */
const sessions = new Map()
/** Tensors that stay in this thread between runs, such as key-value caches. @type {Map<number, Value>} */
const residents = new Map()
/** Shared with the caller: whether an action is being carried out, and whether the process is about to end. */
const state = new Int32Array(workerData.state)
const [BUSY, ENDING] = [0, 1]

/** A request that this thread refuses; everything else that fails is ONNX Runtime's word. */
class Refusal extends Error {}

/** @param {Value} value */
const toTensor = (value) => new ort.Tensor(/** @type {any} */ (value.dtype), value.data, value.dims)

/** @param {number} resident */
function residentValue(resident) {
  const value = residents.get(resident)
  if (!value)
    throw new Refusal(`Resident tensor ${resident} does not exist: it was released, or belongs to another runtime.`)
  return value
}

/**
 * Tensors of residents and of their parts, which serve every run until the resident is replaced.
 * @type {WeakMap<Value, Map<string, ort.Tensor>>}
 */
const made = new WeakMap()

/**
 * @param {{ resident: number, from?: number, to?: number }} place
 * @param {(value: Value) => Value} plain
 */
function residentTensor({ resident, from, to }, plain) {
  const value = residentValue(resident)
  if (isShared(value)) return toTensor(plain(value))
  const known = made.get(value) ?? new Map()
  made.set(value, known)
  const key = `${from}:${to}`
  const tensor = known.get(key) ?? toTensor(from === undefined ? value : partOf(value, from, to ?? 0))
  known.set(key, tensor)
  return tensor
}

/** @param {Value} value @param {number} from @param {number} to @returns {Value} */
function partOf(value, from, to) {
  const [length = 0, ...rest] = value.dims
  if (!(Number.isInteger(from) && Number.isInteger(to) && 0 <= from && from < to && to <= length)) {
    throw new Refusal(`A resident tensor [${value.dims.join(', ')}] has no part from ${from} to ${to}.`)
  }
  const inner = rest.reduce((product, dim) => product * dim, 1)
  return { dtype: value.dtype, dims: [to - from, ...rest], data: value.data.subarray(from * inner, to * inner) }
}

/** @type {Record<string, (message: any) => Promise<{ result: any, transfer?: ArrayBuffer[] }>>} */
const actions = {
  async backends() {
    return { result: ort.listSupportedBackends().map(({ name }) => name) }
  },

  async open({ session, bytes, weights, options }) {
    const created = await ort.InferenceSession.create(bytes, { ...options, externalData: weights })
    sessions.set(session, created)
    return { result: undefined }
  },

  async run({ session, feeds, fetches, stores }) {
    const target = sessions.get(session)
    if (!target) throw new Refusal(`Session ${session} is closed.`)
    /** @type {Record<string, ort.Tensor>} */
    const inputs = {}
    const plain = lendCopies()
    for (const [name, value] of Object.entries(feeds)) {
      inputs[name] = 'resident' in value ? residentTensor(value, plain) : toTensor(value)
    }
    const outputs = await target.run(inputs, fetches)
    discard(Object.values(feeds).flatMap((value) => ('resident' in value ? [] : [value.data.buffer])))
    /** @type {Record<string, Value>} */
    const result = {}
    /** @type {ArrayBuffer[]} */
    const transfer = []
    /** @type {(() => void)[]} */
    const writes = []
    for (const [name, tensor] of Object.entries(outputs)) {
      const store = stores[name]
      const value = { dtype: tensor.type, dims: tensor.dims, data: /** @type {any} */ (tensor.data) }
      if (store) {
        const destination = residentValue(store.resident)
        requireRoom(name, value, destination, store)
        writes.push(() => copySlice(value, destination, store.axis, store.start))
        continue
      }
      // a view into a larger buffer would carry all of it along
      if (value.data.byteLength !== value.data.buffer.byteLength) value.data = value.data.slice()
      result[name] = value
      transfer.push(value.data.buffer)
    }
    // nothing is written until everything is known to fit
    for (const write of writes) write()
    return { result, transfer }
  },

  async allocate({ resident, value }) {
    residents.set(resident, value)
    return { result: undefined }
  },

  /** Gives a resident tensor another length along an axis; what fits is kept, the rest is zero. */
  async resize({ resident, axis, length }) {
    const old = residentValue(resident)
    if (!(axis in old.dims)) throw new Refusal(`A resident tensor [${old.dims.join(', ')}] has no axis ${axis}.`)
    if (!Number.isInteger(length) || length < 0) throw new Refusal(`A resident tensor cannot get the length ${length}.`)
    const dims = old.dims.map((dim, index) => (index === axis ? length : dim))
    const data = new old.data.constructor(dims.reduce((product, dim) => product * dim, 1))
    const grown = { dtype: old.dtype, dims, data }
    copySlice(old, grown, axis, 0)
    residents.set(resident, grown)
    return { result: undefined }
  },

  async read({ resident }) {
    const value = residentValue(resident)
    const data = value.data.slice()
    return { result: { ...value, data }, transfer: [data.buffer] }
  },

  async release({ resident }) {
    copies.delete(/** @type {Value} */ (residents.get(resident)))
    residents.delete(resident)
    return { result: undefined }
  },

  async close({ session }) {
    await sessions.get(session)?.release()
    sessions.delete(session)
    return { result: undefined }
  },
}

const { port1: nowhere, port2: otherEnd } = new MessageChannel()
otherEnd.close()

/**
 * Frees buffers now; the collector knows little of their size and would let many of them pile up. What is transferred
 * through a closed port is lost.
 * @param {ArrayBuffer[]} buffers
 */
const discard = (buffers) => nowhere.postMessage(undefined, [...new Set(buffers)])

const isShared = (/** @type {Value} */ { data }) => data.buffer instanceof SharedArrayBuffer

/** Copies of shared residents, which ONNX Runtime does not take where they lie. @type {Map<Value, any>} */
const copies = new Map()

/**
 * Lends copies of shared residents for one run. A copy that is there already serves again; else the value is written over
 * one of its size that this run does not use, so that the layers of a model take turns in the room of one.
 */
function lendCopies() {
  const lent = new Set()
  return (/** @type {Value} */ value) => {
    if (!isShared(value)) return value
    let data = copies.get(value)
    if (!data) {
      const { length, constructor: Kind } = value.data
      for (const [other, copy] of copies) {
        if (lent.has(copy) || copy.length !== length || copy.constructor !== Kind) continue
        copies.delete(other)
        data = copy
        break
      }
      data ??= new Kind(length)
      data.set(value.data)
      copies.set(value, data)
    }
    lent.add(data)
    return { ...value, data }
  }
}

/**
 * @param {string} name @param {Value} value @param {Value} target @param {{ axis: number, start: number }} place
 */
function requireRoom(name, value, target, { axis, start }) {
  if (isShared(target)) throw new Refusal(`Output '${name.replace('out:', '')}' cannot be stored into a shared tensor.`)
  const shows = (/** @type {Value} */ { dtype, dims }) => `${dtype}[${dims.join(', ')}]`
  const aligned =
    value.dtype === target.dtype &&
    value.dims.length === target.dims.length &&
    axis in target.dims &&
    value.dims.every((dim, index) => index === axis || dim === target.dims[index])
  const length = value.dims[axis] ?? 0
  const room = target.dims[axis] ?? 0
  if (!aligned || !Number.isInteger(start) || start < 0 || start + length > room) {
    throw new Refusal(
      `Output '${name.replace('out:', '')}' ${shows(value)} does not fit into the resident tensor ${shows(target)} ` +
        `at ${start} along axis ${axis}. Expected the same element type and other axes, and an end within ${room}.`,
    )
  }
}

/**
 * Copies `from` into `to` beginning at `start` along `axis`, as far as it fits; the other axes have equal lengths.
 * @param {Value} from @param {Value} to @param {number} axis @param {number} start
 */
function copySlice(from, to, axis, start) {
  const inner = from.dims.slice(axis + 1).reduce((product, dim) => product * dim, 1)
  const outer = from.dims.slice(0, axis).reduce((product, dim) => product * dim, 1)
  const length = from.dims[axis] ?? 0
  const room = to.dims[axis] ?? 0
  const kept = Math.min(length, room - start)
  for (let block = 0; block < outer; block++) {
    const source = from.data.subarray(block * length * inner, (block * length + kept) * inner)
    to.data.set(source, (block * room + start) * inner)
  }
}

/** @param {{ id: number, action: string, message: any }} request */
async function carryOut({ id, action, message }) {
  Atomics.store(state, BUSY, 1)
  try {
    // whoever sets ENDING then reads BUSY, so that either they wait for this action or it does not begin
    if (Atomics.load(state, ENDING) === 1) return
    const handler = actions[action]
    if (!handler) throw new Refusal(`Unknown action ${action}.`)
    const { result, transfer } = await handler(message)
    parentPort?.postMessage({ id, result }, transfer ?? [])
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error)
    parentPort?.postMessage({ id, error: text, refused: error instanceof Refusal })
  } finally {
    Atomics.store(state, BUSY, 0)
    Atomics.notify(state, BUSY)
  }
}

// one action after the other, in the order of the calls: a read sees what the run before it stored
let last = Promise.resolve()
parentPort?.on('message', (request) => {
  last = last.then(() => carryOut(request))
})
