import type { StepReport } from './step.ts'
import type { TrainingProgress, TrainingResult } from './trainer.ts'

/** Where progress goes; `process.stderr` fits. */
export interface ProgressOutput {
  write(text: string): unknown
  /** True for a terminal: a bar that redraws itself; otherwise lines for a log. */
  readonly isTTY?: boolean
  readonly columns?: number
}

export interface ProgressOptions {
  readonly output: ProgressOutput
  /** Nothing at all, for machine-readable runs. */
  readonly quiet?: boolean
  /** Seconds between lines of a log (default 30). */
  readonly logSeconds?: number
  /** Milliseconds; for tests. */
  readonly now?: () => number
}

/** Over how many steps speed and loss are averaged. */
const window = 20
const barWidth = 24

/** Shows a training run: step, loss, samples/s, remaining time, evaluations, checkpoints and how to resume. */
export function createProgress(options: ProgressOptions): TrainingProgress {
  const { output, quiet = false, logSeconds = 30, now = () => performance.now() } = options
  if (quiet) return {}
  const terminal = output.isTTY === true
  const recent: { readonly report: StepReport; readonly seconds: number }[] = []
  let steps = 0
  let lastStepAt = 0
  let lastLineAt = Number.NEGATIVE_INFINITY
  let firstCompressed: { readonly done: number; readonly at: number } | undefined

  /** A line that stays; on a terminal the bar is cleared first and comes back with the next step. */
  function print(line: string): void {
    output.write(terminal ? `\r\x1b[2K${line}\n` : `${line}\n`)
  }

  function status(step: number): string {
    const seconds = recent.reduce((sum, entry) => sum + entry.seconds, 0)
    const samples = recent.reduce((sum, entry) => sum + entry.report.samples, 0)
    const loss = recent.reduce((sum, entry) => sum + entry.report.loss, 0) / recent.length
    const remaining = ((steps - step) * seconds) / recent.length
    const speed = seconds > 0 ? (samples / seconds).toFixed(2) : '-'
    return `step ${step}/${steps}  loss ${loss.toFixed(4)}  ${speed} samples/s  ${duration(remaining)} left`
  }

  /** Drawn anew on a terminal, now and then a line of a log. */
  function show(time: number, line: string, share: number, isLast: boolean): void {
    if (terminal) {
      output.write(`\r\x1b[2K${`${bar(share)} ${line}`.slice(0, (output.columns ?? 100) - 1)}`)
    } else if (time - lastLineAt >= logSeconds * 1000 || isLast) {
      lastLineAt = time
      print(line)
    }
  }

  return {
    compressed(done, all) {
      const time = now()
      firstCompressed ??= { done, at: time }
      const speed = (done - firstCompressed.done) / ((time - firstCompressed.at) / 1000)
      const left = speed > 0 ? `  ${speed.toFixed(1)}/s  ${duration((all - done) / speed)} left` : ''
      show(time, `compressing documents: ${done}/${all}${left}`, done / all, done === all)
    },
    started(facts) {
      steps = facts.steps
      lastStepAt = now()
      print(
        `${facts.step === 0 ? 'Training' : `Resuming after step ${facts.step},`} ${facts.steps} steps, in ${facts.runFolder}`,
      )
    },
    step(report) {
      const time = now()
      recent.push({ report, seconds: (time - lastStepAt) / 1000 })
      if (recent.length > window) recent.shift()
      lastStepAt = time
      show(time, status(report.step), report.step / steps, report.step === steps)
    },
    evaluated(step, metrics) {
      const figures = Object.entries(metrics).map(([name, value]) => `${name} ${value.toFixed(4)}`)
      print(`evaluation after step ${step}: ${figures.join('  ')}`)
      lastStepAt = now()
    },
    checkpointed(step, folder) {
      print(`checkpoint of step ${step}: ${folder}`)
      lastStepAt = now()
    },
    stopping() {
      print('Stopping: the step in flight is finished first, then a checkpoint is written …')
    },
    stopped(result) {
      print(ending(result))
    },
  }
}

function ending(result: TrainingResult): string {
  const best =
    result.best === undefined
      ? ''
      : ` Best ${result.best.metric}: ${result.best.value.toFixed(4)}, step ${result.best.step}.`
  if (result.reason === 'finished')
    return `Finished ${result.steps} steps.${best} Last checkpoint: ${result.checkpoint}`
  if (result.reason === 'stopped improving') {
    return `Stopped after step ${result.step} of ${result.steps}: no new best for as many evaluations as evaluation.patience says.${best} Last checkpoint: ${result.checkpoint}`
  }
  const why = result.reason === 'aborted' ? 'Stopped' : 'Time is up'
  return `${why} after step ${result.step} of ${result.steps}.${best} Go on with the same command and --resume (checkpoint: ${result.checkpoint})`
}

function bar(share: number): string {
  const filled = Math.round(Math.min(1, share) * barWidth)
  return `[${'█'.repeat(filled)}${'·'.repeat(barWidth - filled)}]`
}

/** Seconds as `4 h 05 min`, `12 min` or `40 s`. */
export function duration(seconds: number): string {
  const minutes = Math.round(seconds / 60)
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`
  return seconds >= 90 ? `${minutes} min` : `${Math.ceil(seconds)} s`
}
