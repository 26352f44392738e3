import type { Tensor } from '../graph/graph.ts'
import { sameShape } from '../graph/shape.ts'
import { applyOne, at, mismatch, type Operator } from './operator.ts'

export interface CustomGradientAttributes {
  readonly rule: (gradient: Tensor) => Tensor
}

/** value, with a gradient by x that is given instead of derived. */
const customGradientOperator: Operator<CustomGradientAttributes> = {
  name: 'CustomGradient',
  infer(inputs) {
    const value = at(inputs, 0)
    return [{ dtype: value.dtype, shape: value.shape }]
  },
  emit: (node) => [{ type: 'Identity', inputs: [at(node.inputs, 0).name], outputs: [at(node.outputs, 0).name] }],
  gradient({ inputs, attributes, outputGradients }) {
    const gradient = outputGradients[0]
    if (!gradient) return [undefined, undefined]
    const x = at(inputs, 1)
    const result = attributes.rule(gradient)
    if (!sameShape(result.shape, x.shape)) {
      throw mismatch('CustomGradient', [x, result], 'the rule must give a gradient of the shape of x')
    }
    return [undefined, result]
  },
}

/**
 * A value computed from x in a way that has no gradient (rounding, say), together with the gradient to use in its place.
 * @param value What comes out.
 * @param rule The gradient by x, given that by the value; it is called where a gradient is asked for.
 */
export const customGradient = (value: Tensor, x: Tensor, rule: (gradient: Tensor) => Tensor): Tensor =>
  applyOne(customGradientOperator, [value, x], { rule })

export const customOperators = { CustomGradient: customGradientOperator }
