import type { GraphNode, Tensor } from '../graph/graph.ts'
import { MICROSOFT } from '../graph/onnx.ts'
import { broadcastShapes, type Dim, multiplyDims, type Shape, sameShape, showShape, sizeOf } from '../graph/shape.ts'
import { applyOne, at, dimAt, mismatch, type Operator, requireDType } from './operator.ts'

export interface MatMulAttributes {
  readonly transposeA: boolean
  readonly transposeB: boolean
  /** Factor of the product. */
  readonly alpha: number
}

const names = (tensors: readonly (Tensor | undefined)[]) => tensors.map((tensor) => tensor?.name ?? '')

/** Rows, inner and columns of op(A)·op(B). */
function productDims(a: Tensor, b: Tensor, { transposeA, transposeB }: MatMulAttributes) {
  return {
    rows: dimAt(a, transposeA ? -1 : -2),
    innerA: dimAt(a, transposeA ? -2 : -1),
    innerB: dimAt(b, transposeB ? -1 : -2),
    columns: dimAt(b, transposeB ? -2 : -1),
  }
}

/**
 * C = alpha · op(A) op(B) over the last two axes, leading axes broadcast.
 * With op the identity: dA = alpha · g Bᵀ, dB = alpha · Aᵀ g; the transposed cases swap the roles.
 */
const matMulOperator: Operator<MatMulAttributes> = {
  name: 'MatMul',
  infer(inputs, attributes) {
    requireDType('MatMul', inputs, [0, 1], 'float32')
    const [a, b] = [at(inputs, 0), at(inputs, 1)]
    if (a.shape.length < 2 || b.shape.length < 2)
      throw mismatch('MatMul', inputs, 'both operands need two axes or more')
    const { rows, innerA, innerB, columns } = productDims(a, b, attributes)
    if (innerA !== innerB) throw mismatch('MatMul', inputs, `the inner dimensions ${innerA} and ${innerB} differ`)
    const leading = broadcastShapes(a.shape.slice(0, -2), b.shape.slice(0, -2))
    if (!leading) throw mismatch('MatMul', inputs, 'the leading axes do not broadcast')
    return [{ dtype: 'float32', shape: [...leading, rows, columns] }]
  },
  emit(node, { transposeA, transposeB, alpha }) {
    const plain = !transposeA && !transposeB && alpha === 1
    return [
      {
        type: plain ? 'MatMul' : 'FusedMatMul',
        domain: plain ? '' : MICROSOFT,
        inputs: names(node.inputs),
        outputs: [at(node.outputs, 0).name],
        attributes: plain ? {} : { transA: Number(transposeA), transB: Number(transposeB), alpha: { float: alpha } },
      },
    ]
  },
  gradient({ inputs, attributes, outputGradients, needed }) {
    const [a, b, g] = [at(inputs, 0), at(inputs, 1), at(outputGradients, 0)]
    const { transposeA, transposeB, alpha } = attributes
    const byA = () =>
      transposeA
        ? matmul(b, g, { transposeA: transposeB, transposeB: true, alpha })
        : matmul(g, b, { transposeB: !transposeB, alpha })
    const byB = () =>
      transposeB
        ? matmul(g, a, { transposeA: true, transposeB: transposeA, alpha })
        : matmul(a, g, { transposeA: !transposeA, alpha })
    return [needed[0] ? byA() : undefined, needed[1] ? byB() : undefined]
  },
}

export function matmul(a: Tensor, b: Tensor, options: Partial<MatMulAttributes> = {}): Tensor {
  return applyOne(matMulOperator, [a, b], { transposeA: false, transposeB: false, alpha: 1, ...options })
}

/**
 * C' = alpha · op(A) op(B) + C on matrices: the addition (of a bias, or of what a LoRA update adds to) costs no pass of
 * its own. Gradients as for the product; C receives g.
 */
const gemmOperator: Operator<MatMulAttributes> = {
  name: 'Gemm',
  infer(inputs, attributes) {
    requireDType('Gemm', inputs, [...inputs.keys()], 'float32')
    const [a, b, c] = [at(inputs, 0), at(inputs, 1), inputs[2]]
    if (a.shape.length !== 2 || b.shape.length !== 2) throw mismatch('Gemm', inputs, 'both factors must be matrices')
    const { rows, innerA, innerB, columns } = productDims(a, b, attributes)
    if (innerA !== innerB) throw mismatch('Gemm', inputs, `the inner dimensions ${innerA} and ${innerB} differ`)
    const shape: Shape = [rows, columns]
    const filled = c && broadcastShapes(c.shape, shape)
    if (c && !(filled && sameShape(filled, shape)))
      throw mismatch('Gemm', inputs, `the addend does not broadcast to ${showShape(shape)}`)
    return [{ dtype: 'float32', shape }]
  },
  emit: (node, { transposeA, transposeB, alpha }) => [
    {
      type: 'Gemm',
      inputs: names(node.inputs),
      outputs: [at(node.outputs, 0).name],
      attributes: { transA: Number(transposeA), transB: Number(transposeB), alpha: { float: alpha } },
    },
  ],
  gradient({ inputs, attributes, outputGradients, needed }) {
    const [a, b, g] = [at(inputs, 0), at(inputs, 1), at(outputGradients, 0)]
    const { transposeA, transposeB, alpha } = attributes
    const byA = () =>
      transposeA
        ? gemm(b, g, undefined, { transposeA: transposeB, transposeB: true, alpha })
        : gemm(g, b, undefined, { transposeB: !transposeB, alpha })
    const byB = () =>
      transposeB
        ? gemm(g, a, undefined, { transposeA: true, transposeB: transposeA, alpha })
        : gemm(a, g, undefined, { transposeA: !transposeA, alpha })
    return [needed[0] ? byA() : undefined, needed[1] ? byB() : undefined, needed[2] ? g : undefined]
  },
}

export function gemm(a: Tensor, b: Tensor, c?: Tensor, options: Partial<MatMulAttributes> = {}): Tensor {
  return applyOne(gemmOperator, [a, b, c], { transposeA: false, transposeB: false, alpha: 1, ...options })
}

/**
 * `total + product`, folded into the product's own node where it is a Gemm without addend. The reverse walk sums
 * gradients with it, so that the many contributions to one activation cost no extra passes.
 */
export function gemmPlus(total: Tensor, product: Tensor): Tensor | undefined {
  const node = product.producer
  if (node?.operator !== 'Gemm' || node.inputs.length !== 2) return undefined
  const [a, b] = node.inputs
  return a && b ? gemm(a, b, total, node.attributes as unknown as MatMulAttributes) : undefined
}

/** Floating-point operations of a node (two per multiply-add); 0 for operators other than the products. */
export function productFlops(node: GraphNode): Dim {
  if (node.operator !== 'MatMul' && node.operator !== 'Gemm') return 0
  const [a, b] = node.inputs
  const [output] = node.outputs
  if (!a || !b || !output) return 0
  const { innerA } = productDims(a, b, node.attributes as unknown as MatMulAttributes)
  return multiplyDims(2, multiplyDims(sizeOf(output.shape), innerA))
}

/** A linear layer on rows: x Wᵀ with W as checkpoints store it, [out, in]. */
export const linear = (x: Tensor, weight: Tensor, addend?: Tensor, alpha = 1): Tensor =>
  gemm(x, weight, addend, { transposeB: true, alpha })

export const matmulOperators = { MatMul: matMulOperator, Gemm: gemmOperator }
