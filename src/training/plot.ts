import { join } from 'node:path'
import { writeFileAtomic } from '../checkpoint/atomic.ts'
import { type MetricsLine, readMetrics } from './metrics.ts'

/** A point of a curve: step and figure. */
export type Point = readonly [number, number]

export interface Curve {
  readonly label: string
  readonly points: readonly Point[]
  readonly color: string
  /** Drawn thin and pale, without a legend entry: the raw figures behind a smoothed curve. */
  readonly faint?: boolean
}

export interface Panel {
  readonly title: string
  readonly curves: readonly Curve[]
}

/** Okabe and Ito's palette: told apart by colour-blind readers too. */
export const palette = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000']
const width = 860
const panelHeight = 320
const margin = { left: 70, right: 220, top: 36, bottom: 46 }

/** Draws metrics.jsonl of a run as `run.svg` beside it. */
export async function writePlot(runFolder: string): Promise<void> {
  await writeFileAtomic(join(runFolder, 'run.svg'), plotSvg(await readMetrics(runFolder)))
}

/**
 * A run as one self-contained SVG: training loss (raw and smoothed) with the evaluation losses, below it the other
 * evaluation figures (each kind of figure in a panel of its own, since scales differ), last the learning rate.
 * Evaluation figures whose name begins with `loss` share the first panel.
 */
export function plotSvg(lines: readonly MetricsLine[]): string {
  const training = curvePoints(lines, 'training', 'loss')
  const evaluated = [...new Set(lines.flatMap((line) => (line.kind === 'evaluation' ? Object.keys(line.values) : [])))]
  const curveOf = (name: string, index: number): Curve => ({
    label: name,
    points: curvePoints(lines, 'evaluation', name),
    color: palette[index % palette.length] ?? '#000',
  })
  const losses = evaluated.filter((name) => name.startsWith('loss'))
  const others = evaluated.filter((name) => !name.startsWith('loss'))
  const panels: Panel[] = [
    {
      title: 'Loss (nats per token)',
      curves: [
        { label: 'training', points: training, color: '#999999', faint: true },
        { label: 'training, smoothed', points: smooth(training), color: '#555555' },
        ...losses.map(curveOf),
      ],
    },
    { title: 'Other evaluation figures', curves: others.map(curveOf) },
    {
      title: 'Learning rate',
      curves: [{ label: 'learning rate', points: curvePoints(lines, 'training', 'learningRate'), color: '#555555' }],
    },
  ]
  return drawPanels('Training run', panels)
}

/** Panels below each other as one self-contained SVG; those without a point are left out. */
export function drawPanels(title: string, panels: readonly Panel[]): string {
  const shown = panels.filter((panel) => panel.curves.some((curve) => curve.points.length > 0))
  const height = Math.max(1, shown.length) * panelHeight
  const body = shown.map((panel, index) => drawPanel(panel, index * panelHeight)).join('')
  const empty = `<text x="${width / 2}" y="${height / 2}" text-anchor="middle">No figures yet</text>`
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="sans-serif" font-size="12"><title>${escapeXml(title)}</title><rect width="100%" height="100%" fill="#fff"/>${shown.length === 0 ? empty : body}</svg>\n`
}

/** One figure over the steps. */
export function curvePoints(lines: readonly MetricsLine[], kind: MetricsLine['kind'], name: string): Point[] {
  return lines.flatMap((line): Point[] => {
    const value = line.kind === kind ? line.values[name] : undefined
    return typeof value === 'number' ? [[line.step, value]] : []
  })
}

/** Exponential moving average over about a fiftieth of the run, corrected for its start as Adam's means are. */
export function smooth(points: readonly Point[]): Point[] {
  const decay = 1 - 1 / Math.max(1, points.length / 50)
  let sum = 0
  let weight = 0
  return points.map(([step, value]): Point => {
    sum = decay * sum + (1 - decay) * value
    weight = decay * weight + (1 - decay)
    return [step, sum / weight]
  })
}

function drawPanel(panel: Panel, top: number): string {
  const curves = panel.curves.map((curve) => ({ ...curve, points: thin(curve.points) }))
  const points = curves.flatMap((curve) => curve.points)
  const xTicks = ticks(0, Math.max(1, ...points.map(([step]) => step)))
  const yTicks = ticks(Math.min(...points.map(([, value]) => value)), Math.max(...points.map(([, value]) => value)))
  const plotWidth = width - margin.left - margin.right
  const plotHeight = panelHeight - margin.top - margin.bottom
  const x = scale(xTicks, margin.left, margin.left + plotWidth)
  const y = scale(yTicks, margin.top + plotHeight, margin.top)
  const parts = [`<text x="${margin.left}" y="22" font-size="14" font-weight="bold">${escapeXml(panel.title)}</text>`]
  for (const tick of yTicks) {
    parts.push(
      `<line x1="${margin.left}" x2="${margin.left + plotWidth}" y1="${y(tick)}" y2="${y(tick)}" stroke="#e5e5e5"/>`,
    )
    parts.push(`<text x="${margin.left - 8}" y="${y(tick) + 4}" text-anchor="end">${tickLabel(tick)}</text>`)
  }
  const base = margin.top + plotHeight
  for (const tick of xTicks) {
    parts.push(`<line x1="${x(tick)}" x2="${x(tick)}" y1="${base}" y2="${base + 5}" stroke="#555"/>`)
    parts.push(`<text x="${x(tick)}" y="${base + 18}" text-anchor="middle">${tickLabel(tick)}</text>`)
  }
  parts.push(`<line x1="${margin.left}" x2="${margin.left + plotWidth}" y1="${base}" y2="${base}" stroke="#555"/>`)
  parts.push(`<text x="${margin.left + plotWidth / 2}" y="${base + 36}" text-anchor="middle">step</text>`)
  let legendRow = 0
  for (const curve of curves) {
    if (curve.points.length === 0) continue
    parts.push(drawCurve(curve, x, y))
    if (curve.faint) continue
    const legendY = margin.top + 8 + 18 * legendRow
    const legendX = width - margin.right + 16
    const last = curve.points.at(-1)?.[1] ?? 0
    parts.push(
      `<line x1="${legendX}" x2="${legendX + 18}" y1="${legendY}" y2="${legendY}" stroke="${curve.color}" stroke-width="2"/>`,
    )
    parts.push(`<text x="${legendX + 24}" y="${legendY + 4}">${escapeXml(curve.label)} (${tickLabel(last)})</text>`)
    legendRow += 1
  }
  return `<g transform="translate(0 ${top})">${parts.join('')}</g>`
}

function drawCurve(curve: Curve, x: (value: number) => number, y: (value: number) => number): string {
  const path = curve.points.map(([step, value]) => `${x(step)},${y(value)}`).join(' ')
  const style = curve.faint ? 'stroke-width="1" opacity="0.35"' : 'stroke-width="2"'
  const line = `<polyline points="${path}" fill="none" stroke="${curve.color}" ${style}/>`
  // Few points (evaluations) are marked, so that a single one is seen at all.
  if (curve.points.length > 60) return line
  const dots = curve.points.map(
    ([step, value]) => `<circle cx="${x(step)}" cy="${y(value)}" r="2.5" fill="${curve.color}"/>`,
  )
  return line + (curve.faint ? '' : dots.join(''))
}

/** At most about 1,500 points, evenly chosen, always with the last: more cannot be told apart at this width. */
function thin(points: readonly Point[]): readonly Point[] {
  const stride = Math.ceil(points.length / 1500)
  return points.filter((_, index) => index % stride === 0 || index === points.length - 1)
}

/** Round numbers that span the range: multiples of 1, 2 or 5 times a power of ten, about five of them. */
function ticks(low: number, high: number): number[] {
  const span = high > low ? high - low : Math.abs(high) || 1
  const rough = span / 5
  const power = 10 ** Math.floor(Math.log10(rough))
  const unit = [1, 2, 5, 10].find((multiple) => multiple * power >= rough) ?? 10
  const step = unit * power
  // The hair against rounding: 0.001 / 0.0002 must count as 5.
  const first = Math.floor(low / step + 1e-9)
  const last = Math.max(first + 1, Math.ceil(high / step - 1e-9))
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step)
}

function scale(marks: readonly number[], from: number, to: number): (value: number) => number {
  const low = marks[0] ?? 0
  const high = marks.at(-1) ?? 1
  return (value) => Math.round((from + ((value - low) / (high - low)) * (to - from)) * 10) / 10
}

function tickLabel(value: number): string {
  return value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e6)
    ? value.toExponential(1)
    : String(Number(value.toPrecision(4)))
}

/** Text that stands for itself in XML and HTML, between tags and in quoted attributes. */
export function escapeXml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&#39;')
}
