import { ClaraError } from '../errors.ts'
import { checkpointSteps, readLastCheckpoint, type TrainingState, writeCheckpoint } from './checkpoint.ts'
import { differingSettings, type TrainingConfig } from './config.ts'
import { appendMetrics, startMetrics } from './metrics.ts'
import type { BatchSource, TrainableModel } from './model.ts'
import { createMoments, type NamedArrays } from './optimizer.ts'
import { writePlot } from './plot.ts'
import { type StepConfig, type StepReport, trainStep } from './step.ts'

/** Settings of a run; the whole configuration is stored with the checkpoints and compared on resume. */
export type TrainerConfig = StepConfig & Pick<TrainingConfig, 'minutes' | 'evaluation' | 'checkpoint'>

/** How a run ended. */
export interface TrainingResult {
  readonly reason: 'finished' | 'stopped improving' | 'aborted' | 'out of time'
  /** Updates done, over all sessions. */
  readonly step: number
  readonly steps: number
  /** Folder of the last checkpoint. */
  readonly checkpoint: string
  readonly best?: TrainingState['best']
}

/** Listens to a run. */
export interface TrainingProgress {
  /** Documents that a frozen compressor has compressed before the first step, of how many that it must. */
  compressed?(done: number, all: number): void
  started?(facts: { readonly step: number; readonly steps: number; readonly runFolder: string }): void
  step?(report: StepReport): void
  evaluated?(step: number, metrics: Readonly<Record<string, number>>): void
  checkpointed?(step: number, folder: string): void
  /** A request to stop has arrived; the step in flight is being finished. */
  stopping?(): void
  stopped?(result: TrainingResult): void
}

export interface TrainOptions<Batch> {
  readonly model: TrainableModel<Batch>
  readonly batches: BatchSource<Batch>
  readonly config: TrainerConfig
  /** Receives metrics.jsonl, run.svg and checkpoints/. */
  readonly runFolder: string
  /** Figures of the current parameters; must change nothing. Called before the first step, every `evaluation.every` steps and at the end. */
  readonly evaluate?: (step: number) => Promise<Readonly<Record<string, number>>>
  /** Stops the run after the step in flight, with a checkpoint. */
  readonly signal?: AbortSignal
  /** Abandons the step in flight; nothing is written. */
  readonly abandon?: AbortSignal
  readonly progress?: TrainingProgress
  /** Continue from the folder's last checkpoint, bit for bit. */
  readonly resume?: boolean
  /** Milliseconds, for tests. */
  readonly now?: () => number
}

/**
 * Trains a model to `config.steps` updates. A run that was aborted, killed or ran out of time continues with `resume`
 * exactly as if it had never stopped: parameters, moments, data order and dropout all come from the checkpoint and the
 * step's number.
 * @throws ClaraError on non-finite numbers (earlier checkpoints stay), a full disk, a folder that already holds another
 *   run, or a resume with other settings.
 */
export async function train<Batch>(options: TrainOptions<Batch>): Promise<TrainingResult> {
  const {
    model,
    batches,
    config,
    runFolder,
    evaluate,
    signal,
    abandon,
    progress,
    now = () => performance.now(),
  } = options
  const moments = createMoments(model.parameters)
  let state: TrainingState = {
    version: 1,
    step: 0,
    samples: 0,
    seconds: 0,
    batches: batches.state(),
    config: JSON.parse(JSON.stringify(config)),
  }
  let saved: { readonly step: number; readonly folder: string } | undefined

  if (options.resume) {
    const last = await readLastCheckpoint(runFolder)
    if (last === undefined) {
      throw new ClaraError(`There is nothing to resume in ${runFolder}.`, {
        expected: 'a folder with checkpoints/step-…',
        hint: 'Start the run without --resume.',
      })
    }
    checkSameConfig(last.state.config, state.config, last.folder)
    copyInto(model.parameters, last.parameters, 'parameters', last.folder)
    copyInto(moments.first, last.moments.first, 'first moments', last.folder)
    copyInto(moments.second, last.moments.second, 'second moments', last.folder)
    batches.restore(last.state.batches)
    await model.afterUpdate?.(model.parameters)
    state = { ...last.state, config: state.config }
    saved = { step: state.step, folder: last.folder }
  } else if ((await checkpointSteps(runFolder)).length > 0) {
    throw new ClaraError(`${runFolder} already holds a run.`, {
      hint: 'Go on with it by --resume, or choose another output folder.',
    })
  }
  await startMetrics(runFolder, options.resume ? state.step : -1)

  const secondsBefore = state.seconds
  const started = now()
  let lastCheckpointAt = started

  async function save(): Promise<string> {
    if (saved?.step === state.step) return saved.folder
    state = { ...state, batches: batches.state(), seconds: secondsBefore + (now() - started) / 1000 }
    const folder = await writeCheckpoint(
      runFolder,
      { state, parameters: model.parameters, moments },
      config.checkpoint.keep,
    )
    saved = { step: state.step, folder }
    lastCheckpointAt = now()
    progress?.checkpointed?.(state.step, folder)
    return folder
  }

  /** Evaluates, and saves when the result is the best so far. */
  async function evaluateNow(): Promise<void> {
    if (evaluate === undefined) return
    const metrics = await evaluate(state.step)
    appendMetrics(runFolder, { step: state.step, kind: 'evaluation', values: finiteOrNull(metrics) })
    progress?.evaluated?.(state.step, metrics)
    const { metric, better } = config.evaluation
    const value = metrics[metric]
    if (value === undefined) {
      throw new ClaraError(`The evaluation has no figure named "${metric}" (evaluation.metric).`, {
        expected: `one of ${Object.keys(metrics).join(', ')}`,
      })
    }
    const before = state.best?.value
    const improved = before === undefined || (better === 'lower' ? value < before : value > before)
    if (Number.isFinite(value) && improved && state.step > 0) {
      state = { ...state, best: { step: state.step, metric, value }, sinceBest: 0 }
      await save()
    } else if (state.step > 0) {
      state = { ...state, sinceBest: (state.sinceBest ?? 0) + 1 }
    }
    await writePlot(runFolder)
  }

  const stopped = (): TrainingResult['reason'] | undefined => {
    if (state.step >= config.steps) return 'finished'
    const { patience } = config.evaluation
    if (patience !== undefined && (state.sinceBest ?? 0) >= patience) return 'stopped improving'
    if (signal?.aborted) return 'aborted'
    const elapsedMinutes = (now() - started) / 60_000
    return config.minutes !== undefined && elapsedMinutes >= config.minutes ? 'out of time' : undefined
  }
  const announceStop = () => progress?.stopping?.()
  signal?.addEventListener('abort', announceStop, { once: true })
  try {
    progress?.started?.({ step: state.step, steps: config.steps, runFolder })
    if (!options.resume) await evaluateNow()
    let reason = stopped()
    while (reason === undefined) {
      const step = state.step + 1
      const report = await trainStep({ model, batches, moments, config, step, signal: abandon })
      state = { ...state, step, samples: state.samples + report.samples }
      appendMetrics(runFolder, { step, kind: 'training', values: finiteOrNull(figuresOf(report, state.samples)) })
      progress?.step?.(report)
      reason = stopped()
      const { every } = config.evaluation
      if (reason === 'finished' || (every > 0 && step % every === 0)) await evaluateNow()
      if (checkpointDue(step)) await save()
      // an evaluation may have been one too many without a new best
      reason ??= stopped()
    }
    const checkpoint = await save()
    await writePlot(runFolder)
    const best = state.best === undefined ? {} : { best: state.best }
    const result: TrainingResult = { reason, step: state.step, steps: config.steps, checkpoint, ...best }
    progress?.stopped?.(result)
    return result
  } finally {
    signal?.removeEventListener('abort', announceStop)
  }

  function checkpointDue(step: number): boolean {
    const { steps, minutes } = config.checkpoint
    return (steps !== undefined && step % steps === 0) || now() - lastCheckpointAt >= minutes * 60_000
  }
}

/** @throws ClaraError that names the settings in which a run differs from its checkpoint, where they matter. */
export function checkSameConfig(saved: unknown, current: unknown, folder: string): void {
  const differing = differingSettings(saved, current)
  if (differing.length === 0) return
  throw new ClaraError(`The run in ${folder} was started with other settings: ${differing.join(', ')}.`, {
    hint: 'Resume with the settings it was started with, or start a new run in another output folder.',
  })
}

function copyInto(targets: NamedArrays, sources: NamedArrays, what: string, folder: string): void {
  const names = [...targets.keys()].filter((name) => sources.get(name)?.length !== targets.get(name)?.length)
  const unknown = [...sources.keys()].filter((name) => !targets.has(name))
  if (names.length > 0 || unknown.length > 0) {
    throw new ClaraError(
      `The ${what} in ${folder} do not fit this model: ${[...names, ...unknown].slice(0, 5).join(', ')}.`,
      {
        expected: `${targets.size} arrays`,
        received: `${sources.size}`,
        hint: 'Resume with the base model and adapters that the run was started with.',
      },
    )
  }
  for (const [name, values] of targets) values.set(sources.get(name) ?? [])
}

function figuresOf(report: StepReport, samples: number): Record<string, number> {
  const { loss, terms, learningRate, gradientNorm, labelledTokens } = report
  return { loss, ...terms, learningRate, gradientNorm, labelledTokens, samples }
}

function finiteOrNull(values: Readonly<Record<string, number>>): Record<string, number | null> {
  return Object.fromEntries(
    Object.entries(values).map(([name, value]) => [name, Number.isFinite(value) ? value : null]),
  )
}
