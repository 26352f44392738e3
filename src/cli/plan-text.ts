import { duration } from '../training/progress.ts'
import type { StageConfig } from '../training/stages/config.ts'
import type { RunPlan } from '../training/stages/plan.ts'
import { printable } from './terminal.ts'

/** How long a run will take, about. */
export interface PlannedTime {
  readonly secondsPerStep: number
  /** All steps, evaluations and checkpoints left out. */
  readonly seconds: number
}

/** Share of the products' peak that a whole step reached where it was measured (docs/benchmarks.md). */
const EFFICIENCY = 0.85
/** How much longer a step takes in the saving mode, and how much shorter with frozen weights in 8 bits (docs/LOG.md). */
const SAVING = 1.45
const INT8 = 1.6

/** @param flopsPerSecond Peak of the machine's products of matrices. */
export function timeOf(plan: RunPlan, { frozenWeights }: StageConfig, flopsPerSecond: number): PlannedTime {
  const slower = plan.memoryMode === 'saving' ? SAVING : 1
  const faster = frozenWeights === 'int8' ? INT8 : 1
  const secondsPerStep = ((plan.flopsPerStep / (EFFICIENCY * flopsPerSecond)) * slower) / faster
  return { secondsPerStep, seconds: plan.steps * secondsPerStep }
}

/** What `clara train --dry-run` prints of a stage. */
export function describePlan(
  plan: RunPlan,
  config: StageConfig,
  machine: PlannedTime & { readonly threads: number; readonly flopsPerSecond: number },
): string[] {
  const { memoryMiB, dimensions, parameters } = plan
  const counts = Object.entries(parameters).map(([role, count]) => `${role} ${count.toLocaleString('en')}`)
  const total = Object.values(parameters).reduce((sum, count) => sum + count, 0)
  const saving = memoryMiB.saving === undefined ? '' : `, saving ${mebibytes(memoryMiB.saving)}`
  const budget = config.memoryBudgetMiB === undefined ? '' : `; budget ${mebibytes(config.memoryBudgetMiB)}`
  return [
    `${plan.stage} in ${config.output}: ${plan.steps} steps of ${plan.samplesPerStep.toFixed(0)} samples`,
    ...plan.data.map(
      ({ file, task, items, passes }) =>
        `  data        ${file}, ${task}: ${items} items, seen ${passes.toFixed(2)} times`,
    ),
    `  shapes      ${dimensions.map(({ name, mean, largest }) => `${name} ${mean.toFixed(0)} (to ${largest})`).join(', ')}`,
    `  parameters  ${total.toLocaleString('en')} learn: ${counts.join(', ')}`,
    `  operations  ${(plan.flopsPerStep / 1e9).toFixed(1)} GFLOP a step`,
    `  memory      fast ${mebibytes(memoryMiB.fast)}${saving}, estimated${budget}; this run: ${plan.memoryMode}`,
    `  time        about ${duration(machine.seconds)}, ${machine.secondsPerStep.toFixed(2)} s a step, at ${(machine.flopsPerSecond / 1e9).toFixed(0)} GFLOPS peak on ${machine.threads} threads; evaluations not counted`,
  ].map(printable)
}

const mebibytes = (value: number) => `${Math.round(value).toLocaleString('en')} MiB`
