import { batchStream } from '../../src/data/batching.ts'
import { createRandom } from '../../src/data/random.ts'
import { mapStream, type ResumableStream } from '../../src/data/stream.ts'
import type { TrainableModel } from '../../src/training/model.ts'

/** One row of a regression: inputs and the number to predict. */
export interface Row {
  readonly inputs: readonly number[]
  readonly target: number
}

/** The weights that made the data; least squares finds them again, as there is no noise in the targets. */
export const trueWeights = [1.5, -2, 0.5] as const
export const trueBias = 0.75

export function linearRows(count: number, seed = 1): Row[] {
  const random = createRandom(seed)
  return Array.from({ length: count }, () => {
    const inputs = trueWeights.map(() => random.normal())
    return { inputs, target: trueBias + inputs.reduce((sum, x, index) => sum + x * (trueWeights[index] ?? 0), 0) }
  })
}

export function rowBatches(rows: readonly Row[], batchSize: number, seed = 7): ResumableStream<Row[]> {
  const stream = batchStream({ lengths: rows.map(() => 1), batchSize, seed })
  return mapStream(stream, (indices) => indices.flatMap((index) => rows[index] ?? []))
}

/** Linear regression with squared error: gradients in closed form. `noise` blurs the inputs, as dropout would. */
export function linearModel(noise = 0): TrainableModel<readonly Row[]> & { readonly seeds: number[] } {
  const weight = new Float32Array(trueWeights.length)
  const bias = new Float32Array(1)
  const seeds: number[] = []
  return {
    seeds,
    parameters: new Map([
      ['weight', weight],
      ['bias', bias],
    ]),
    labelledTokens: (batch) => batch.length,
    samples: (batch) => batch.length,
    async lossAndGradients(batch, { normaliser, share, seed }) {
      seeds.push(seed)
      const random = createRandom(seed)
      const gradientOfWeight = new Float64Array(weight.length)
      let gradientOfBias = 0
      let loss = 0
      for (const { inputs, target } of batch) {
        const seen = inputs.map((x) => x + noise * random.normal())
        const error = (bias[0] ?? 0) + seen.reduce((sum, x, index) => sum + x * (weight[index] ?? 0), 0) - target
        loss += error ** 2 / normaliser
        gradientOfBias += (2 * error) / normaliser
        for (const [index, x] of seen.entries()) {
          gradientOfWeight[index] = (gradientOfWeight[index] ?? 0) + (2 * error * x) / normaliser
        }
      }
      return {
        loss,
        terms: { squaredError: loss, share },
        gradients: new Map([
          ['weight', Float32Array.from(gradientOfWeight)],
          ['bias', Float32Array.of(gradientOfBias)],
        ]),
      }
    },
  }
}
