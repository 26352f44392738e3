import type { Tensor } from '../graph/graph.ts'
import { divideDims, sameShape, showShape } from '../graph/shape.ts'
import { add, divide, multiply, negate, scalar, sqrt, subtract } from './elementwise.ts'
import { apply, applyOne, at, dimAt, mismatch, type Operator, requireDType } from './operator.ts'
import { reduceMean, reduceSum } from './reduce.ts'

const names = (tensors: readonly (Tensor | undefined)[]) => tensors.map((tensor) => tensor?.name ?? '')

/**
 * Root mean square normalisation over the last axis: y = x r w with r = 1 / sqrt(mean(x²) + epsilon).
 * dx = r (g w) - x r³ mean(g w x); dw = Σ g x r.
 */
const rmsNormOperator: Operator<{ readonly epsilon: number }> = {
  name: 'RmsNorm',
  infer(inputs) {
    requireDType('RmsNorm', inputs, [0, 1], 'float32')
    const [x, weight] = [at(inputs, 0), at(inputs, 1)]
    if (weight.shape.length !== 1 || weight.shape[0] !== dimAt(x, -1)) {
      throw mismatch('RmsNorm', inputs, 'the weight must have the length of the last axis')
    }
    return [
      { dtype: x.dtype, shape: x.shape },
      { dtype: 'float32', shape: [...x.shape.slice(0, -1), 1] },
    ]
  },
  emit: (node, { epsilon }) => [
    {
      type: 'SimplifiedLayerNormalization',
      inputs: names(node.inputs),
      outputs: node.outputs.map(({ name }) => name),
      attributes: { axis: -1, epsilon: { float: epsilon }, stash_type: 1 },
    },
  ],
  gradient({ inputs, outputs, outputGradients, needed }) {
    const [x, weight, inverse] = [at(inputs, 0), at(inputs, 1), at(outputs, 1)]
    const g = outputGradients[0]
    if (!g) return [undefined, undefined]
    const normalised = multiply(x, inverse)
    const weighted = multiply(g, weight)
    const projection = reduceMean(multiply(weighted, normalised), [-1], true)
    return [
      needed[0] ? multiply(inverse, subtract(weighted, multiply(normalised, projection))) : undefined,
      needed[1] ? multiply(g, normalised) : undefined,
    ]
  },
}

/** RMS normalisation (Zhang and Sennrich 2019) of the last axis with a weight of its length. */
export const rmsNorm = (x: Tensor, weight: Tensor, epsilon: number): Tensor =>
  at(apply(rmsNormOperator, [x, weight], { epsilon }), 0)

/** Softmax over the last axis: dx = p (g - Σ g p). */
const softmaxOperator: Operator<Record<string, never>> = {
  name: 'Softmax',
  infer: (inputs) => [{ dtype: at(inputs, 0).dtype, shape: at(inputs, 0).shape }],
  emit: (node) => [
    { type: 'Softmax', inputs: names(node.inputs), outputs: [at(node.outputs, 0).name], attributes: { axis: -1 } },
  ],
  gradient({ outputs, outputGradients }) {
    const [p, g] = [at(outputs, 0), at(outputGradients, 0)]
    const weighted = multiply(g, p)
    return [subtract(weighted, multiply(p, reduceSum(weighted, [-1], true)))]
  },
}
export const softmax = (x: Tensor): Tensor => applyOne(softmaxOperator, [x], {})

/** Scales the last axis to length 1: x / sqrt(Σ x² + epsilon). */
export function l2Normalise(x: Tensor, epsilon = 1e-12): Tensor {
  return divide(x, sqrt(add(reduceSum(multiply(x, x), [-1], true), scalar(x, epsilon))))
}

/** Cosine of the last axes of two tensors. */
export const cosine = (a: Tensor, b: Tensor): Tensor => reduceSum(multiply(l2Normalise(a), l2Normalise(b)), [-1])

/** Mean of squared differences over all elements. */
export function meanSquaredError(a: Tensor, b: Tensor): Tensor {
  const difference = subtract(a, b)
  return reduceMean(multiply(difference, difference))
}

/**
 * Rotary position embedding (Su et al. 2021) in the half-split convention of Hugging Face Llama models:
 * the first half of each head's rotary dimensions pairs with the second.
 * Its gradient is the rotation by the opposite angle: the same operator with -sin. The tables are constants: they have none.
 */
const rotaryOperator: Operator<{ readonly heads: number; readonly rotaryDim: number }> = {
  name: 'Rotary',
  infer(inputs, { heads, rotaryDim }) {
    requireDType('Rotary', inputs, [0, 2, 3], 'float32')
    requireDType('Rotary', inputs, [1], 'int64')
    const [x, positions, cos, sin] = [at(inputs, 0), at(inputs, 1), at(inputs, 2), at(inputs, 3)]
    if (x.shape.length !== 3) throw mismatch('Rotary', inputs, 'expected [batch, length, heads * head_dim]')
    if (!sameShape(positions.shape, x.shape.slice(0, 2))) {
      throw mismatch('Rotary', inputs, `the positions must be ${showShape(x.shape.slice(0, 2))}`)
    }
    const width = divideDims(dimAt(x, 2), heads)
    if (width === undefined) throw mismatch('Rotary', inputs, `the last axis does not divide into ${heads} heads`)
    const half = divideDims(rotaryDim === 0 ? width : rotaryDim, 2)
    if (cos.shape.length !== 2 || !sameShape(cos.shape, sin.shape) || cos.shape[1] !== half) {
      throw mismatch('Rotary', inputs, `the tables must be [positions, ${half ?? 'half of an even number'}]`)
    }
    return [{ dtype: x.dtype, shape: x.shape }]
  },
  emit: (node, { heads, rotaryDim }) => [
    {
      type: 'RotaryEmbedding',
      domain: 'com.microsoft',
      inputs: names(node.inputs),
      outputs: [at(node.outputs, 0).name],
      attributes: { interleaved: 0, num_heads: heads, rotary_embedding_dim: rotaryDim },
    },
  ],
  gradient({ inputs, attributes, outputGradients }) {
    const [positions, cos, sin] = [at(inputs, 1), at(inputs, 2), at(inputs, 3)]
    const g = at(outputGradients, 0)
    return [applyOne(rotaryOperator, [g, positions, cos, negate(sin)], attributes)]
  },
}

export interface RotaryOptions {
  readonly heads: number
  /** Dimensions of each head that rotate; 0 for all. */
  readonly rotaryDim: number
  /** [positions, rotary half] tables. */
  readonly cos: Tensor
  readonly sin: Tensor
}

/** Rotates queries or keys x [batch, length, heads * head_dim] by their positions [batch, length]. */
export const rotary = (x: Tensor, positions: Tensor, { heads, rotaryDim, cos, sin }: RotaryOptions): Tensor =>
  applyOne(rotaryOperator, [x, positions, cos, sin], { heads, rotaryDim })

export const normaliseOperators = { RmsNorm: rmsNormOperator, Softmax: softmaxOperator, Rotary: rotaryOperator }
