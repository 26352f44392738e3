// Started as a process of its own by kill.test.ts, to be killed at any moment: trains the linear model, or goes on with it.

import { checkpointSteps } from '../../src/training/checkpoint.ts'
import { checkConfig, type TrainingConfig, trainingConfigSchema } from '../../src/training/config.ts'
import { recordRun } from '../../src/training/run-folder.ts'
import { type TrainingResult, train } from '../../src/training/trainer.ts'
import { linearModel, linearRows, rowBatches } from './linear-model.ts'

export const steps = 120

/** The same run whoever trains it: in this process or in the test's. */
export async function trainLinear(
  folder: string,
  dataFile: string,
  step?: (step: number) => void,
): Promise<TrainingResult> {
  const config: TrainingConfig = checkConfig(
    {
      output: folder,
      steps,
      learningRate: 0.05,
      seed: 3,
      data: [{ file: dataFile, task: 'answer' }],
      evaluation: { every: 7 },
      checkpoint: { steps: 1, keep: 2 },
    },
    trainingConfigSchema({}),
    'the test settings',
  )
  const model = linearModel(0.1)
  const resume = (await checkpointSteps(folder)).length > 0
  await recordRun(config, resume)
  return train({
    model,
    batches: rowBatches(linearRows(40), 8),
    config,
    runFolder: folder,
    resume,
    evaluate: async () => ({ loss: Math.abs(model.parameters.get('bias')?.[0] ?? 0) }),
    progress: { step: (report) => step?.(report.step) },
  })
}

const [, , mode, folder = '', dataFile = ''] = process.argv
if (mode === 'train-linear') {
  const result = await trainLinear(folder, dataFile, (step) => process.stdout.write(`${step}\n`))
  process.stdout.write(`${result.reason}\n`)
}
