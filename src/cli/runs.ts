import { z } from 'zod'
import { printable } from './terminal.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'List training runs and compare them'

export const options = z.strictObject({
  folders: z.array(z.string()).default(['runs']).describe('Output folders of runs, or folders that hold some'),
  html: z.string().optional().describe('Write a page with the curves of all runs side by side to this file'),
  settings: z.boolean().default(false).describe('Print the settings in which the runs differ'),
})

export const positionals = ['folders']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const [{ findRuns, differences }, { runsPage }, { duration }, { writeFileAtomic }] = await Promise.all([
    import('../training/runs.ts'),
    import('../training/runs-page.ts'),
    import('../training/progress.ts'),
    import('../checkpoint/atomic.ts'),
  ])
  const runs = await findRuns(values.folders)
  const rows = runs.map((record): string[] => {
    const { folder, problem, stage, step, steps, seconds, trainingLoss, best, ended } = record
    if (problem !== undefined) return [folder, problem]
    const loss = trainingLoss === undefined ? '' : trainingLoss.toFixed(4)
    const found = best === undefined ? '' : `${best.metric} ${best.value.toFixed(4)}, step ${best.step}`
    return [folder, stage, `${step}/${steps}`, ended ? 'ended' : 'open', duration(seconds), loss, found]
  })
  for (const line of table([['run', 'stage', 'step', '', 'time', 'loss', 'best'], ...rows])) context.print(line)
  const differing = differences(runs)
  if (values.settings && differing.length > 0) {
    context.print('')
    for (const { name, values: settings } of differing) {
      context.print(printable(name))
      for (const [index, setting] of settings.entries()) {
        context.print(printable(`  ${runs[index]?.folder ?? ''}: ${setting === '' ? '(not set)' : setting}`))
      }
    }
  }
  if (values.html !== undefined) {
    await writeFileAtomic(values.html, runsPage(runs))
    context.print(`The curves are in ${printable(values.html)}.`)
  }
  const listed = runs.map(({ metrics: _, ...listing }) => listing)
  context.report({ runs: listed, differences: differing, ...(values.html === undefined ? {} : { html: values.html }) })
}

/** Columns as wide as their longest cell; the last cell of a row may be of any length. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = []
  for (const row of rows) {
    row.slice(0, -1).forEach((cell, column) => {
      widths[column] = Math.max(widths[column] ?? 0, cell.length)
    })
  }
  return rows.map((row) =>
    printable(
      row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))).join('  '),
    ).trimEnd(),
  )
}
