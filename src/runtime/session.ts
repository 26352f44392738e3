import { ClaraError } from '../errors.ts'
import { type DType, elementCount, type HostTensor } from '../graph/dtype.ts'
import type { EncodedModel } from '../graph/onnx.ts'
import { type Shape, showShape } from '../graph/shape.ts'

/** A tensor that stays in the runtime's thread between runs. */
export interface Resident {
  readonly resident: number
}

/** Elements [from, to) of a resident tensor's first axis, as a tensor of its own: many inputs can share one resident. */
export interface Part extends Resident {
  readonly from: number
  readonly to: number
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

export type Feeds = Readonly<Record<string, HostTensor | Resident | Part>>

/** A graph made ready to run. */
export interface Session extends AsyncDisposable {
  readonly model: EncodedModel
  run(feeds: Feeds, options?: RunOptions): Promise<Record<string, HostTensor>>
  close(): Promise<void>
}

/** Sends one action to the runtime's thread. */
export type Call = <Result>(action: string, message: Record<string, unknown>) => Promise<Result>

/** The calling side of an opened session: checks what is fed and asked for, so that mistakes are told by name. */
export function createSession(model: EncodedModel, session: number, call: Call): Session {
  const outputs = model.outputs.map(({ name }) => name)
  let open = true
  const self: Session = {
    model,
    async run(feeds, { fetch, store = {} } = {}) {
      if (!open) throw new ClaraError(`The session of graph '${model.name}' is closed.`, { hint: 'Open a new one.' })
      requireOutputs(model, [...(fetch ?? []), ...Object.keys(store)])
      const given: Record<string, HostTensor | Resident | Part> = {}
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
    async close() {
      if (!open) return
      open = false
      await call('close', { session })
    },
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
