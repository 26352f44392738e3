import { Clara } from '../../src/clara/clara.ts'
import type { Memory } from '../../src/clara/encoder.ts'
import type { RoleKind } from '../../src/clara/inference.ts'
import type { ClaraModel } from '../../src/clara/model.ts'
import { inTurn, median, medianOf } from '../measure.ts'

export interface CompressorFigures {
  /** Documents a second with int8 weights over those with float32 weights. */
  readonly int8OverFp32: number
  /** The least cosine of any memory token made with int8 weights with the same made with float32 weights. */
  readonly minCosine: number
  readonly meanCosine: number
  readonly documentsPerSecond: Readonly<Record<RoleKind, number>>
}

/** How fast documents are compressed with either kind of weights, and how much the memories differ. */
export async function measureCompressor(
  model: ClaraModel,
  options: { readonly documents: readonly string[]; readonly threads: number; readonly repetitions: number },
): Promise<CompressorFigures> {
  const { documents, threads } = options
  await using exact = await Clara.open(model, { threads, weights: 'fp32' })
  await using rounded = await Clara.open(model, { threads, weights: 'int8' })
  const cosines = cosinesOf(await exact.compressDocuments(documents), await rounded.compressDocuments(documents))
  const times = await inTurn(options.repetitions, {
    fp32: () => exact.compressDocuments(documents),
    int8: () => rounded.compressDocuments(documents),
  })
  const documentsPerSecond = (milliseconds: readonly number[]) => (documents.length * 1000) / median(milliseconds)
  return {
    int8OverFp32: medianOf(times, ({ fp32, int8 }) => fp32 / int8),
    minCosine: Math.min(...cosines),
    meanCosine: cosines.reduce((sum, cosine) => sum + cosine, 0) / cosines.length,
    documentsPerSecond: { fp32: documentsPerSecond(times.fp32), int8: documentsPerSecond(times.int8) },
  }
}

/** Cosine of every memory token with its counterpart. */
function cosinesOf(left: readonly Memory[], right: readonly Memory[]): number[] {
  return left.flatMap(({ tokens, shape: [count, width] }, document) => {
    const others = right[document]?.tokens ?? new Float32Array(tokens.length)
    return Array.from({ length: count }, (_, row) => {
      let [product, a, b] = [0, 0, 0]
      for (let index = row * width; index < (row + 1) * width; index++) {
        const [x, y] = [tokens[index] ?? 0, others[index] ?? 0]
        product += x * y
        a += x * x
        b += y * y
      }
      return product / Math.sqrt(a * b)
    })
  })
}
