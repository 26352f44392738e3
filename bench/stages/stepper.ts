import type { TrainableModel } from '../../src/training/model.ts'
import { createMoments } from '../../src/training/optimizer.ts'
import type { StageConfig } from '../../src/training/stages/config.ts'
import { trainStep } from '../../src/training/step.ts'

/** Updates, whole: one for each of some batches, which are made each time they are trained on. */
export function updates<Batch>(
  model: TrainableModel<Batch>,
  config: StageConfig,
  makers: readonly (() => Batch | Promise<Batch>)[],
): () => Promise<void> {
  const moments = createMoments(model.parameters)
  let step = 0
  return async () => {
    for (const next of makers) {
      const batches = { next, state: () => null, restore: () => {} }
      await trainStep({ model, batches, moments, config, step: ++step })
    }
  }
}
