import { curvePoints, drawPanels, escapeXml, type Panel, palette, smooth } from './plot.ts'
import { differences, type RunRecord } from './runs.ts'

/**
 * Runs beside each other as one HTML page that needs nothing else and runs no scripts: a table, the settings in which they
 * differ, and a panel for each figure with the curves of all runs. Names from the runs' files are text, whatever they hold.
 */
export function runsPage(runs: readonly RunRecord[]): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Training runs</title>
<style>
body { font-family: sans-serif; margin: 2rem; color: #222; background: #fff; }
table { border-collapse: collapse; margin-bottom: 2rem; }
th, td { border: 1px solid #ddd; padding: .3rem .6rem; text-align: left; font-size: .85rem; max-width: 24rem; overflow-wrap: anywhere; vertical-align: top; }
td.figure { text-align: right; font-variant-numeric: tabular-nums; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); gap: 1rem; }
.plots svg { width: 100%; height: auto; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
</style>
</head>
<body>
<h1>Training runs</h1>
${runsTable(runs)}
${settingsTable(runs)}
<div class="plots">
${figurePanels(runs)
  .map((panel) => drawPanels(panel.title, [panel]))
  .join('')}</div>
</body>
</html>
`
}

const colourOf = (index: number): string => palette[index % palette.length] ?? '#000'

function runsTable(runs: readonly RunRecord[]): string {
  const figures = [...new Set(runs.flatMap(({ evaluation }) => Object.keys(evaluation)))]
  const heads = ['run', 'stage', 'step', 'samples', 'hours', 'training loss', 'best', ...figures]
  const rows = runs.map((run, index) => {
    const { folder, problem, stage, step, steps, samples, seconds, trainingLoss, best, evaluation } = run
    const name = `<td><span class="swatch" style="background:${colourOf(index)}"></span>${escapeXml(folder)}</td>`
    if (problem !== undefined) return `<tr>${name}<td colspan="${heads.length - 1}">${escapeXml(problem)}</td></tr>`
    const bestText = best === undefined ? '' : `${best.metric} ${number(best.value)}, step ${best.step}`
    const cells = [
      `<td>${escapeXml(stage)}</td>`,
      figure(`${step} of ${steps}`),
      figure(String(samples)),
      figure((seconds / 3600).toFixed(2)),
      figure(number(trainingLoss)),
      figure(bestText),
      ...figures.map((key) => figure(number(evaluation[key] ?? undefined))),
    ]
    return `<tr>${name}${cells.join('')}</tr>`
  })
  return `<table><thead><tr>${heads.map((head) => `<th>${escapeXml(head)}</th>`).join('')}</tr></thead><tbody>${rows.join('')}</tbody></table>`
}

function settingsTable(runs: readonly RunRecord[]): string {
  const differing = differences(runs)
  if (differing.length === 0) return ''
  const heads = ['setting', ...runs.map(({ folder }) => folder)]
  const rows = differing.map(
    ({ name, values }) => `<tr>${[name, ...values].map((text) => `<td>${escapeXml(text)}</td>`).join('')}</tr>`,
  )
  return `<h2>Settings that differ</h2>
<table><thead><tr>${heads.map((head) => `<th>${escapeXml(head)}</th>`).join('')}</tr></thead><tbody>${rows.join('')}</tbody></table>`
}

/** The training loss, smoothed, then every figure of the evaluations: one panel each, one curve a run. */
function figurePanels(runs: readonly RunRecord[]): Panel[] {
  const panel = (title: string, pointsOf: (run: RunRecord) => Panel['curves'][number]['points']): Panel => ({
    title,
    curves: runs.map((run, index) => ({ label: short(run.folder), points: pointsOf(run), color: colourOf(index) })),
  })
  const figures = runs.flatMap(({ metrics }) =>
    metrics.flatMap(({ kind, values }) => (kind === 'evaluation' ? Object.keys(values) : [])),
  )
  return [
    panel('training loss, smoothed', ({ metrics }) => smooth(curvePoints(metrics, 'training', 'loss'))),
    ...[...new Set(figures)].map((name) =>
      panel(`evaluation: ${name}`, ({ metrics }) => curvePoints(metrics, 'evaluation', name)),
    ),
  ]
}

/** The end of a folder's name, as far as the legend has room. */
const short = (folder: string): string => (folder.length > 24 ? `…${folder.slice(-23)}` : folder)

const figure = (text: string): string => `<td class="figure">${escapeXml(text)}</td>`
const number = (value: number | undefined): string => (value === undefined ? '' : value.toFixed(4))
