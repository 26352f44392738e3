/** What a figure has to reach. */
export interface Target {
  /** Path of the figure, dots for nesting. */
  readonly figure: string
  readonly atLeast?: number
  readonly atMost?: number
}

export interface Row {
  readonly figure: string
  readonly value: number
  /** Undefined where nothing is asked of the figure. */
  readonly reached: boolean | undefined
  readonly target: string
}

/** Nested figures as rows, each beside its target. */
export function rowsOf(figures: object, targets: readonly Target[]): Row[] {
  return leaves(figures, '').map(([figure, value]) => {
    const target = targets.find((candidate) => candidate.figure === figure)
    if (!target) return { figure, value, reached: undefined, target: '' }
    const { atLeast = Number.NEGATIVE_INFINITY, atMost = Number.POSITIVE_INFINITY } = target
    const bounds = target.atLeast === undefined ? `<= ${atMost}` : `>= ${atLeast}`
    return { figure, value, reached: value >= atLeast && value <= atMost, target: bounds }
  })
}

function leaves(value: object, path: string): [figure: string, value: number][] {
  return Object.entries(value).flatMap(([name, part]): [string, number][] => {
    const place = path === '' ? name : `${path}.${name}`
    return typeof part === 'number' ? [[place, part]] : leaves(part, place)
  })
}

/** The rows in columns, for reading. */
export function showTable(rows: readonly Row[]): string {
  const width = Math.max(...rows.map(({ figure }) => figure.length))
  return rows
    .map(({ figure, value, reached, target }) => {
      const verdict = reached === undefined ? '' : reached ? '  reached' : '  NOT reached'
      return `${figure.padEnd(width)}  ${showNumber(value).padStart(10)}  ${target}${verdict}`.trimEnd()
    })
    .join('\n')
}

const showNumber = (value: number) => (Number.isInteger(value) ? String(value) : value.toPrecision(4))
