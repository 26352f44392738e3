import type { DType } from '../graph/dtype.ts'
import { addConstant, type Tensor } from '../graph/graph.ts'
import { broadcastShapes } from '../graph/shape.ts'
import {
  applyOne,
  at,
  type GradientRule,
  mismatch,
  type NotDifferentiable,
  type Operator,
  requireDType,
} from './operator.ts'

type None = Record<string, never>
const none: None = {}

function binary(name: string, gradient: GradientRule<None> | NotDifferentiable, result?: DType): Operator<None> {
  return {
    name,
    infer(inputs) {
      const [a, b] = [at(inputs, 0), at(inputs, 1)]
      const shape = broadcastShapes(a.shape, b.shape)
      if (!shape) throw mismatch(name, inputs, 'the shapes do not broadcast')
      if (a.dtype !== b.dtype) throw mismatch(name, inputs, 'the element types differ')
      return [{ dtype: result ?? a.dtype, shape }]
    },
    gradient,
  }
}

function unary(name: string, gradient: GradientRule<None> | NotDifferentiable): Operator<None> {
  return {
    name,
    infer: (inputs) => [{ dtype: at(inputs, 0).dtype, shape: at(inputs, 0).shape }],
    gradient,
  }
}

/** A function of real numbers, which integers do not have. */
function realFunction(name: string, gradient: GradientRule<None>): Operator<None> {
  return {
    ...unary(name, gradient),
    infer(inputs) {
      const { dtype, shape } = at(inputs, 0)
      if (!dtype.startsWith('float')) throw mismatch(name, inputs, 'the element type must be a floating one')
      return [{ dtype, shape }]
    },
  }
}

/** Gradient of the only output. */
function flowing(gradients: readonly (Tensor | undefined)[]): Tensor {
  return at(gradients, 0)
}

// d(a + b) = da + db
const addOperator = binary('Add', ({ outputGradients }) => {
  const g = flowing(outputGradients)
  return [g, g]
})
export const add = (a: Tensor, b: Tensor): Tensor => applyOne(addOperator, [a, b], none)

// d(a - b) = da - db
const subOperator = binary('Sub', ({ outputGradients, needed }) => {
  const g = flowing(outputGradients)
  return [g, needed[1] ? negate(g) : undefined]
})
export const subtract = (a: Tensor, b: Tensor): Tensor => applyOne(subOperator, [a, b], none)

// d(a b) = b da + a db
const mulOperator = binary('Mul', ({ inputs, outputGradients, needed }) => {
  const [a, b, g] = [at(inputs, 0), at(inputs, 1), flowing(outputGradients)]
  return [needed[0] ? multiply(g, b) : undefined, needed[1] ? multiply(g, a) : undefined]
})
export const multiply = (a: Tensor, b: Tensor): Tensor => applyOne(mulOperator, [a, b], none)

// d(a / b) = da / b - (a / b) db / b
const divOperator = binary('Div', ({ inputs, outputs, outputGradients, needed }) => {
  const [b, y, g] = [at(inputs, 1), at(outputs, 0), flowing(outputGradients)]
  const scaled = divide(g, b)
  return [scaled, needed[1] ? negate(multiply(scaled, y)) : undefined]
})
export const divide = (a: Tensor, b: Tensor): Tensor => applyOne(divOperator, [a, b], none)

// d(-x) = -dx
const negOperator = unary('Neg', ({ outputGradients }) => [negate(flowing(outputGradients))])
export const negate = (x: Tensor): Tensor => applyOne(negOperator, [x], none)

// d e^x = e^x dx
const expOperator = realFunction('Exp', ({ outputs, outputGradients }) => [
  multiply(flowing(outputGradients), at(outputs, 0)),
])
export const exp = (x: Tensor): Tensor => applyOne(expOperator, [x], none)

// d ln x = dx / x
const logOperator = realFunction('Log', ({ inputs, outputGradients }) => [
  divide(flowing(outputGradients), at(inputs, 0)),
])
export const log = (x: Tensor): Tensor => applyOne(logOperator, [x], none)

// d sqrt(x) = dx / (2 sqrt(x))
const sqrtOperator = realFunction('Sqrt', ({ outputs, outputGradients }) => {
  const y = at(outputs, 0)
  return [divide(flowing(outputGradients), scale(y, 2))]
})
export const sqrt = (x: Tensor): Tensor => applyOne(sqrtOperator, [x], none)

// d sigmoid(x) = s (1 - s) dx
const sigmoidOperator = realFunction('Sigmoid', ({ outputs, outputGradients }) => {
  const s = at(outputs, 0)
  return [multiply(flowing(outputGradients), multiply(s, subtract(scalar(s, 1), s)))]
})
export const sigmoid = (x: Tensor): Tensor => applyOne(sigmoidOperator, [x], none)

// d |x| = sign(x) dx
const absOperator = unary('Abs', ({ inputs, outputGradients }) => [
  multiply(flowing(outputGradients), sign(at(inputs, 0))),
])
export const abs = (x: Tensor): Tensor => applyOne(absOperator, [x], none)

const signOperator = unary('Sign', { notDifferentiable: 'its derivative is zero wherever it exists' })
export const sign = (x: Tensor): Tensor => applyOne(signOperator, [x], none)

const roundOperator = unary('Round', { notDifferentiable: 'its derivative is zero wherever it exists' })
/** Rounds to the nearest integer, halves to even. */
export const round = (x: Tensor): Tensor => applyOne(roundOperator, [x], none)

const equalOperator = binary('Equal', { notDifferentiable: 'a comparison' }, 'bool')
export const equal = (a: Tensor, b: Tensor): Tensor => applyOne(equalOperator, [a, b], none)

const lessOperator = binary('Less', { notDifferentiable: 'a comparison' }, 'bool')
export const less = (a: Tensor, b: Tensor): Tensor => applyOne(lessOperator, [a, b], none)

/**
 * silu(x) = x sigmoid(x); dx = g s (1 + x (1 - s)).
 * Emitted as ONNX Runtime's QuickGelu with alpha 1, which is the same function in one pass.
 */
const siluOperator: Operator<None> = {
  ...realFunction('Silu', ({ inputs, outputGradients }) => {
    const [x, g] = [at(inputs, 0), flowing(outputGradients)]
    const s = sigmoid(x)
    const one = scalar(x, 1)
    return [multiply(g, multiply(s, add(one, multiply(x, subtract(one, s)))))]
  }),
  emit: (node) => [
    {
      type: 'QuickGelu',
      domain: 'com.microsoft',
      inputs: [at(node.inputs, 0).name],
      outputs: [at(node.outputs, 0).name],
      attributes: { alpha: { float: 1 } },
    },
  ],
}
export const silu = (x: Tensor): Tensor => applyOne(siluOperator, [x], none)

/** Chooses elementwise: `condition ? a : b`; dL/da = condition ? g : 0, dL/db = condition ? 0 : g. */
const whereOperator: Operator<None> = {
  name: 'Where',
  infer(inputs) {
    requireDType('Where', inputs, [0], 'bool')
    const [condition, a, b] = [at(inputs, 0), at(inputs, 1), at(inputs, 2)]
    const values = broadcastShapes(a.shape, b.shape)
    const shape = values && broadcastShapes(condition.shape, values)
    if (!shape) throw mismatch('Where', inputs, 'the shapes do not broadcast')
    if (a.dtype !== b.dtype) throw mismatch('Where', inputs, 'the two branches have different element types')
    return [{ dtype: a.dtype, shape }]
  },
  gradient({ inputs, outputGradients, needed }) {
    const [condition, g] = [at(inputs, 0), flowing(outputGradients)]
    const zero = scalar(g, 0)
    return [
      undefined,
      needed[1] ? where(condition, g, zero) : undefined,
      needed[2] ? where(condition, zero, g) : undefined,
    ]
  },
}
export const where = (condition: Tensor, a: Tensor, b: Tensor): Tensor =>
  applyOne(whereOperator, [condition, a, b], none)

const castTypes: Readonly<Record<DType, number>> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
}

/** Changes the element type; between floating types the gradient is cast back. */
const castOperator: Operator<{ readonly to: DType }> = {
  name: 'Cast',
  infer: (inputs, { to }) => [{ dtype: to, shape: at(inputs, 0).shape }],
  emit: (node, { to }) => [
    {
      type: 'Cast',
      inputs: [at(node.inputs, 0).name],
      outputs: [at(node.outputs, 0).name],
      attributes: { to: castTypes[to] },
    },
  ],
  gradient({ inputs, outputGradients, attributes }) {
    const from = at(inputs, 0).dtype
    const floats = from.startsWith('float') && attributes.to.startsWith('float')
    return [floats ? cast(flowing(outputGradients), from) : undefined]
  },
}
export const cast = (x: Tensor, to: DType): Tensor => (x.dtype === to ? x : applyOne(castOperator, [x], { to }))

/** The identity whose gradient is zero: what stop_gradient means in the straight-through estimator. */
const stopGradientOperator: Operator<None> = {
  ...unary('StopGradient', { notDifferentiable: 'by definition' }),
  emit: (node) => [
    {
      type: 'Identity',
      inputs: [at(node.inputs, 0).name],
      outputs: [at(node.outputs, 0).name],
    },
  ],
}
export const stopGradient = (x: Tensor): Tensor => applyOne(stopGradientOperator, [x], none)

/** A scalar constant in the graph of `like`. */
export function scalar(like: Tensor, value: number): Tensor {
  return addConstant(like.graph, { dtype: 'float32', dims: [], data: Float32Array.of(value) })
}

/** x times a number. */
export const scale = (x: Tensor, factor: number): Tensor => (factor === 1 ? x : multiply(x, scalar(x, factor)))

export const elementwiseOperators = {
  Add: addOperator,
  Sub: subOperator,
  Mul: mulOperator,
  Div: divOperator,
  Neg: negOperator,
  Exp: expOperator,
  Log: logOperator,
  Sqrt: sqrtOperator,
  Sigmoid: sigmoidOperator,
  Abs: absOperator,
  Sign: signOperator,
  Round: roundOperator,
  Equal: equalOperator,
  Less: lessOperator,
  Silu: siluOperator,
  Where: whereOperator,
  Cast: castOperator,
  StopGradient: stopGradientOperator,
}
