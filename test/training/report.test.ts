import { appendFile, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { appendMetrics, type MetricsLine, metricsPath, readMetrics, startMetrics } from '../../src/training/metrics.ts'
import { plotSvg, smooth } from '../../src/training/plot.ts'
import { createProgress } from '../../src/training/progress.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clara-report-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const training = (step: number, loss: number | null): MetricsLine => ({ step, kind: 'training', values: { loss } })

describe('metrics as JSON lines', () => {
  it('come back as written, a figure that was not finite as null', async () => {
    await startMetrics(folder, -1)
    const lines = [training(1, 2.5), training(2, null)]
    for (const line of lines) appendMetrics(folder, line)
    expect(await readMetrics(folder)).toEqual(lines)
    expect((await readFile(metricsPath(folder), 'utf8')).split('\n')).toHaveLength(3)
  })

  it('lose the lines past the checkpoint and half a last line when a run resumes', async () => {
    await startMetrics(folder, -1)
    for (let step = 1; step <= 5; step++) appendMetrics(folder, training(step, step))
    await appendFile(metricsPath(folder), '{"step":6,"kind":"trai')
    await startMetrics(folder, 3)
    appendMetrics(folder, training(4, 40))
    expect((await readMetrics(folder)).map((line) => line.values.loss)).toEqual([1, 2, 3, 40])
  })

  it('start empty for a new run', async () => {
    await startMetrics(folder, -1)
    appendMetrics(folder, training(0, 1))
    await startMetrics(folder, -1)
    expect(await readMetrics(folder)).toEqual([])
  })

  it('that cannot be written are an error that says how to go on', () => {
    expect(() => appendMetrics(join(folder, 'gone'), training(1, 1))).toThrow(/metrics of step 1.*--resume/)
  })
})

describe('the plot of a run', () => {
  const lines: MetricsLine[] = [
    { step: 0, kind: 'evaluation', values: { 'loss.right': 3, 'loss.wrong': 3.1, f1: 5 } },
    ...Array.from({ length: 300 }, (_, index) => training(index + 1, 3 - index / 200)),
    { step: 300, kind: 'evaluation', values: { 'loss.right': 2, 'loss.wrong': 3, f1: 40 } },
  ]

  /** Every `points` attribute of the polylines, as numbers. */
  const polylines = (svg: string) =>
    [...svg.matchAll(/<polyline points="([^"]*)"/g)].map(([, points = '']) =>
      points.split(' ').map((point) => point.split(',').map(Number)),
    )

  it('draws raw and smoothed loss and every evaluation figure, inside the picture', () => {
    const svg = plotSvg(lines)
    const curves = polylines(svg)
    expect(curves.map((points) => points.length)).toEqual([300, 300, 2, 2, 2])
    const [, height = 0] = /height="(\d+)" font-family/.exec(svg)?.map(Number) ?? []
    for (const [x = -1, y = -1] of curves.flat()) {
      expect(x).toBeGreaterThanOrEqual(0)
      expect(x).toBeLessThanOrEqual(860)
      expect(y).toBeGreaterThanOrEqual(0)
      expect(y).toBeLessThanOrEqual(height)
    }
    for (const label of ['training, smoothed', 'loss.right (2)', 'loss.wrong (3)', 'f1 (40)', '>step<']) {
      expect(svg).toContain(label)
    }
  })

  it('puts a falling loss on a falling line: y grows downwards', () => {
    const [raw = []] = polylines(plotSvg(lines))
    const [first, last] = [raw[0], raw.at(-1)]
    expect(last?.[0]).toBeGreaterThan(first?.[0] ?? Number.NaN)
    expect(last?.[1]).toBeGreaterThan(first?.[1] ?? Number.NaN)
  })

  it('is well-formed for no figures, one figure, equal figures, nulls and hostile names', () => {
    const odd = { step: 1, kind: 'evaluation', values: { 'loss <script>&': 1, zero: 0, missing: null } } as const
    for (const list of [[], [training(1, 2)], [training(1, 2), training(2, 2)], [training(1, null)], [odd]]) {
      const svg = plotSvg(list)
      expect(svg).not.toMatch(/NaN|Infinity|undefined|<script/)
      expect(svg.match(/<g /g)?.length ?? 0).toBe(svg.match(/<\/g>/g)?.length ?? 0)
    }
    expect(plotSvg([])).toContain('No figures yet')
    expect(plotSvg([odd])).toContain('loss &lt;script&gt;&amp;')
  })

  it('stays small for a long run', () => {
    const long = Array.from({ length: 200_000 }, (_, index) => training(index + 1, Math.sin(index)))
    expect(plotSvg(long).length).toBeLessThan(100_000)
  })

  it('smooths without bias: a constant stays, a step is reached', () => {
    const flat = smooth(Array.from({ length: 500 }, (_, index) => [index, 4] as const))
    for (const [, value] of flat) expect(value).toBeCloseTo(4, 12)
    const jump = smooth(Array.from({ length: 500 }, (_, index) => [index, index < 250 ? 0 : 1] as const))
    expect(jump.at(-1)?.[1]).toBeCloseTo(1, 6)
    expect(jump[251]?.[1]).toBeLessThan(0.5)
  })
})

describe('progress', () => {
  function recorder(isTTY: boolean) {
    let clock = 0
    let text = ''
    const output = { isTTY, columns: 120, write: (piece: string) => (text += piece) }
    return { output, now: () => clock, text: () => text, pass: (seconds: number) => (clock += seconds * 1000) }
  }
  const report = (step: number) => ({
    step,
    loss: 2,
    terms: {},
    learningRate: 1e-4,
    gradientNorm: 1,
    samples: 8,
    labelledTokens: 50,
  })

  it('on a terminal draws one line with step, loss, speed and remaining time', () => {
    const { output, now, text, pass } = recorder(true)
    const progress = createProgress({ output, now })
    progress.started?.({ step: 0, steps: 100, runFolder: 'runs/a' })
    for (let step = 1; step <= 50; step++) {
      pass(4)
      progress.step?.(report(step))
    }
    const last = text().split('\r').at(-1) ?? ''
    expect(last).toContain('[████████████············] step 50/100  loss 2.0000  2.00 samples/s  3 min left')
    expect(text().split('\n')).toHaveLength(2)
  })

  it('shows how the documents of a frozen compressor come along, in a log too', () => {
    for (const isTerminal of [true, false]) {
      const { output, now, text, pass } = recorder(isTerminal)
      const progress = createProgress({ output, now, logSeconds: 30 })
      for (let done = 100; done <= 400; done += 100) {
        progress.compressed?.(done, 400)
        pass(20)
      }
      expect(text()).toContain('compressing documents: 100/400')
      expect(text()).toContain('compressing documents: 400/400  5.0/s  0 s left')
      // the first, the one after 40 s and the last
      if (!isTerminal) expect(text().trim().split('\n')).toHaveLength(3)
    }
  })

  it('does not count evaluations in the speed', () => {
    const { output, now, text, pass } = recorder(true)
    const progress = createProgress({ output, now })
    progress.started?.({ step: 0, steps: 1000, runFolder: 'runs/a' })
    for (let step = 1; step <= 3; step++) {
      pass(4)
      progress.step?.(report(step))
      pass(600)
      progress.evaluated?.(step, { 'loss.right': 1.5 })
    }
    expect(text()).toContain('evaluation after step 3: loss.right 1.5000')
    expect(
      text()
        .split('\r')
        .findLast((line) => line.includes('samples/s')),
    ).toContain('2.00 samples/s')
  })

  it('writes log lines now and then where there is no terminal', () => {
    const { output, now, text, pass } = recorder(false)
    const progress = createProgress({ output, now, logSeconds: 30 })
    progress.started?.({ step: 0, steps: 90, runFolder: 'runs/a' })
    for (let step = 1; step <= 90; step++) {
      pass(1)
      progress.step?.(report(step))
    }
    const lines = text()
      .trim()
      .split('\n')
      .map((line) => /^step \d+/.exec(line)?.[0])
    expect(lines).toEqual([undefined, 'step 1', 'step 31', 'step 61', 'step 90'])
    expect(text()).not.toContain('\r')
    expect(text()).not.toContain('\x1b')
  })

  it('says how to resume when a run stops early', () => {
    const { output, now, text } = recorder(false)
    const progress = createProgress({ output, now })
    progress.stopping?.()
    progress.stopped?.({ reason: 'aborted', step: 12, steps: 90, checkpoint: 'runs/a/checkpoints/step-000012' })
    expect(text()).toMatch(/Stopping: .*\nStopped after step 12 of 90\. .*--resume .*step-000012/)
  })

  it('is silent when quiet', () => {
    const { output, now, text } = recorder(true)
    const progress = createProgress({ output, now, quiet: true })
    progress.started?.({ step: 0, steps: 1, runFolder: 'a' })
    progress.step?.(report(1))
    expect(text()).toBe('')
  })
})
