import { ClaraError } from '../errors.ts'
import { elementCount, float32, type HostTensor } from '../graph/dtype.ts'
import { addInput, addOutput, createGraph, type Graph, type Tensor } from '../graph/graph.ts'
import { type EncodedModel, reachableNodes } from '../graph/onnx.ts'
import { evaluateDim, type Shape, showShape } from '../graph/shape.ts'
import { encodeGraph } from '../ops/table.ts'
import { gradients } from './gradients.ts'

/** What runs a graph; a `Runtime` is one. */
export interface Engine {
  open(model: EncodedModel): Promise<{
    run(feeds: Readonly<Record<string, HostTensor>>): Promise<Record<string, HostTensor>>
    close(): Promise<void>
  }>
}

/** One operand of a check: its value, and its shape in the graph where that is symbolic. */
export interface CheckedInput {
  readonly value: HostTensor
  readonly shape?: Shape
  /** Whether its gradient is checked. Default: for float32. */
  readonly differentiable?: boolean
}

export interface Check<Name extends string> {
  readonly inputs: Readonly<Record<Name, CheckedInput>>
  /** The function under test; a result that is no scalar is projected on random weights. */
  readonly build: (inputs: Readonly<Record<Name, Tensor>>) => Tensor
  /** The same function on plain numbers, in float64, row-major. */
  readonly reference?: (inputs: Readonly<Record<Name, Float64Array>>) => ArrayLike<number>
  /** Largest forward error, relative to the largest value. Default: 2e-6. */
  readonly tolerance?: number
  /** Distance between the inputs compared; the second is half of it. Default: 1/16. Kinks must lie further away. */
  readonly step?: number
  /** Relative rounding of the result. Default: 2^-24, that of float32. */
  readonly rounding?: number
}

export interface CheckReport {
  /** Operators of the forward graph. */
  readonly operators: ReadonlySet<string>
  /** Per input and direction: the derivative by the gradient rule, and how far the two finite differences lie from it. */
  readonly derivatives: readonly {
    readonly input: string
    readonly analytic: number
    readonly coarseError: number
    readonly fineError: number
    readonly noise: number
  }[]
}

/** Half the distance between 1 and the next float32. */
const FLOAT32_ROUNDING = 2 ** -24
const DIRECTIONS = 2

/**
 * Checks values, shapes and gradients of graph code against plain arithmetic.
 *
 * Gradients: along random directions d, (f(x + h d) - f(x - h d)) / 2h differs from the derivative by a term in h², so
 * halving h must leave a quarter of the error, or no more than float32 rounding explains. A wrong gradient differs by a
 * constant, which halving does not shrink.
 *
 * @throws ClaraError that says which of these failed, for which input, with the numbers.
 */
export async function check<Name extends string>(engine: Engine, spec: Check<Name>): Promise<CheckReport> {
  const names = Object.keys(spec.inputs) as Name[]
  const rounding = spec.rounding ?? FLOAT32_ROUNDING
  const differentiable = names.filter((name) => {
    const { value, differentiable: wanted } = spec.inputs[name]
    return wanted ?? value.dtype === 'float32'
  })
  const values = fromNames(names, (name) => spec.inputs[name].value)

  const forward = declare('forward', names, spec)
  addOutput(forward.graph, 'result', forward.result)
  const operators = new Set(reachableNodes(forward.graph).map(({ operator }) => operator))
  const session = await engine.open(encodeGraph(forward.graph))
  try {
    const run = async (feeds: Readonly<Record<Name, HostTensor>>) => outputOf(await session.run(feeds), 'result')
    const result = await run(values)
    const sizes = symbolSizes(forward.tensors, values)
    requireDims('The result', result, forward.result.shape, sizes)
    if (spec.reference) {
      const expected = spec.reference(fromNames(names, (name) => numbersOf(values[name])))
      requireClose(result, expected, spec.tolerance ?? 2e-6)
    }
    if (differentiable.length === 0) return { operators, derivatives: [] }

    const random = randomNumbers(elementCount(result.dims))
    const weights = float32(
      Float32Array.from({ length: result.data.length }, () => away(random)),
      result.dims,
    )
    const analytic = await analyticGradients(engine, names, spec, differentiable, values, weights)
    const derivatives: CheckReport['derivatives'][number][] = []
    for (const name of differentiable) {
      const gradient = outputOf(analytic, name)
      requireDims(`The gradient of '${name}'`, gradient, forward.tensors[name].shape, sizes)
      const measured = []
      for (let count = 0; count < DIRECTIONS; count++) {
        const direction = Float64Array.from({ length: values[name].data.length }, () => away(random))
        const along = (h: number) => difference(run, values, name, direction, h, weights, gradient, rounding)
        const step = spec.step ?? 1 / 16
        measured.push({ input: name as string, ...compare(await along(step), await along(step / 2)) })
      }
      requireAgreement(name, measured)
      derivatives.push(...measured)
    }
    return { operators, derivatives }
  } finally {
    await session.close()
  }
}

function declare<Name extends string>(title: string, names: readonly Name[], { inputs, build }: Check<Name>) {
  const graph = createGraph(title)
  const tensors = fromNames(names, (name) => {
    const { value, shape } = inputs[name]
    return addInput(graph, name, value.dtype, shape ?? value.dims)
  })
  return { graph, tensors, result: build(tensors) }
}

/** Gradients of Σ weights · result by each input of `wrt`, under the input's name. */
async function analyticGradients<Name extends string>(
  engine: Engine,
  names: readonly Name[],
  spec: Check<Name>,
  wrt: readonly Name[],
  values: Readonly<Record<Name, HostTensor>>,
  weights: HostTensor,
): Promise<Record<string, HostTensor>> {
  const { graph, tensors, result } = declare('backward', names, spec)
  const seed = addInput(graph, 'projection', 'float32', result.shape)
  const results = gradients(
    undefined,
    wrt.map((name) => tensors[name]),
    new Map([[result, seed]]),
  )
  wrt.forEach((name, index) => {
    addOutput(graph, name, results[index] as Tensor)
  })
  const session = await engine.open(encodeGraph(graph))
  try {
    return await session.run({ ...values, projection: weights })
  } finally {
    await session.close()
  }
}

interface Difference {
  readonly analytic: number
  readonly numeric: number
  /** How much rounding may contribute. */
  readonly noise: number
}

/** Both derivatives along one direction, over the distance that float32 inputs really moved. */
async function difference<Name extends string>(
  run: (feeds: Readonly<Record<Name, HostTensor>>) => Promise<HostTensor>,
  values: Readonly<Record<Name, HostTensor>>,
  name: Name,
  direction: Float64Array,
  h: number,
  weights: HostTensor,
  gradient: HostTensor,
  rounding: number,
): Promise<Difference> {
  const data = numbersOf(values[name])
  const moved = (sign: number) => {
    const shifted = data.map((x, i) => x + sign * h * at(direction, i))
    return float32(Float32Array.from(shifted), values[name].dims)
  }
  const [ahead, behind] = [moved(1), moved(-1)]
  const [high, low] = [await run({ ...values, [name]: ahead }), await run({ ...values, [name]: behind })]
  let [numeric, largest, weight] = [0, 0, 0]
  for (let i = 0; i < weights.data.length; i++) {
    const [up, down, w] = [Number(high.data[i]), Number(low.data[i]), Number(weights.data[i])]
    numeric += (w * (up - down)) / (2 * h)
    largest = Math.max(largest, Math.abs(up), Math.abs(down))
    weight += Math.abs(w)
  }
  let [analytic, magnitude] = [0, 0]
  for (let i = 0; i < data.length; i++) {
    const term = (Number(gradient.data[i]) * (Number(ahead.data[i]) - Number(behind.data[i]))) / (2 * h)
    analytic += term
    magnitude += Math.abs(term)
  }
  return { analytic, numeric, noise: 4 * rounding * ((weight * largest) / h + 4 * magnitude) }
}

function compare(coarse: Difference, fine: Difference) {
  return {
    analytic: fine.analytic,
    coarseError: Math.abs(coarse.analytic - coarse.numeric),
    fineError: Math.abs(fine.analytic - fine.numeric),
    noise: fine.noise,
    numeric: fine.numeric,
  }
}

type Measured = ReturnType<typeof compare>

function requireAgreement(input: string, measured: readonly Measured[]): void {
  for (const { analytic, numeric, coarseError, fineError, noise } of measured) {
    // a quarter, and some room for the next term of the series; written so that NaN fails
    if (!(fineError <= coarseError * 0.325 + noise)) {
      throw new ClaraError(`The gradient of '${input}' is wrong.`, {
        expected: `a directional derivative near ${numeric}, with an error that falls as the square of the step`,
        received: `${analytic}; the error went from ${coarseError} to ${fineError}, where rounding explains ${noise}`,
      })
    }
  }
  if (measured.every(({ numeric, noise }) => Math.abs(numeric) <= noise)) {
    throw new ClaraError(`The check of '${input}' sees nothing: the result does not change with it.`, {
      hint: 'Mark it as not differentiable, or choose inputs that matter.',
    })
  }
}

function requireClose(result: HostTensor, expected: ArrayLike<number>, tolerance: number): void {
  if (expected.length !== result.data.length) {
    throw new ClaraError(`The result has ${result.data.length} values.`, { expected: `${expected.length}` })
  }
  const largest = Array.from(expected).reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  for (let i = 0; i < expected.length; i++) {
    const [value, wanted] = [Number(result.data[i]), at(expected, i)]
    if (!(Math.abs(value - wanted) <= tolerance * largest)) {
      throw new ClaraError(`Value ${i} of the result is wrong.`, { expected: `${wanted}`, received: `${value}` })
    }
  }
}

function requireDims(what: string, { dims }: HostTensor, shape: Shape, sizes: Readonly<Record<string, number>>): void {
  const expected = shape.map((dim) => evaluateDim(dim, sizes))
  if (dims.join() !== expected.join()) {
    throw new ClaraError(`${what} came out as ${showShape(dims)}.`, {
      expected: `${showShape(expected)}, which is what ${showShape(shape)} stands for`,
    })
  }
}

/** Lengths of the symbols that inputs introduce. */
function symbolSizes<Name extends string>(
  tensors: Readonly<Record<Name, Tensor>>,
  values: Readonly<Record<Name, HostTensor>>,
): Record<string, number> {
  const graph: Graph | undefined = (Object.values(tensors) as Tensor[])[0]?.graph
  const sizes: Record<string, number> = {}
  for (const [symbol, { input, axis }] of graph?.symbols ?? [])
    sizes[symbol] = at(values[input.name as Name].dims, axis)
  return sizes
}

function outputOf(outputs: Readonly<Record<string, HostTensor>>, name: string): HostTensor {
  const output = outputs[name]
  if (!output) throw new ClaraError(`The engine returned no '${name}'.`)
  return output
}

function fromNames<Name extends string, Value>(names: readonly Name[], of: (name: Name) => Value): Record<Name, Value> {
  return Object.fromEntries(names.map((name) => [name, of(name)])) as Record<Name, Value>
}

function numbersOf({ data }: HostTensor): Float64Array {
  return Float64Array.from({ length: data.length }, (_, i) => Number(data[i]))
}

function at(values: ArrayLike<number>, index: number): number {
  const value = values[index]
  if (value === undefined) throw new RangeError(`No element ${index} in ${values.length}.`)
  return value
}

/** Uniform numbers in [0, 1), the same for the same seed (mulberry32). */
function randomNumbers(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A number of either sign that is not near zero. */
function away(random: () => number): number {
  return (random() < 0.5 ? -1 : 1) * (0.5 + random() / 2)
}

/** A float32 tensor of uniform numbers, to check on. */
export function randomTensor(dims: readonly number[], seed: number, low = -1, high = 1): HostTensor {
  const random = randomNumbers(seed)
  return float32(
    Float32Array.from({ length: elementCount(dims) }, () => low + (high - low) * random()),
    dims,
  )
}
