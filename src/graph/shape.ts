/**
 * Dimensions that may be unknown until a graph runs.
 *
 * A dimension is a number, or a polynomial in named symbols written canonically: `batch`, `batch*length`, `2*batch`, `past+length`,
 * `length+-1`. Two dimensions are equal exactly when their canonical texts are equal.
 */
export type Dim = number | string

export type Shape = readonly Dim[]

/** Monomial (symbols sorted and joined by `*`; '' for the constant) to its coefficient. */
type Polynomial = ReadonlyMap<string, number>

function parse(dim: Dim): Polynomial {
  if (typeof dim === 'number') return new Map(dim === 0 ? [] : [['', dim]])
  const terms = new Map<string, number>()
  for (const term of dim.split('+')) {
    const factors = term.split('*')
    const coefficient = factors.reduce((product, factor) => product * (isNumeral(factor) ? Number(factor) : 1), 1)
    const key = factors
      .filter((factor) => !isNumeral(factor))
      .sort()
      .join('*')
    terms.set(key, (terms.get(key) ?? 0) + coefficient)
  }
  return terms
}

const isNumeral = (factor: string) => /^-?\d+$/.test(factor)

function print(polynomial: Polynomial): Dim {
  const terms = [...polynomial].filter(([, coefficient]) => coefficient !== 0).sort(([a], [b]) => (a < b ? 1 : -1))
  if (terms.length === 0) return 0
  const [only] = terms
  if (terms.length === 1 && only?.[0] === '') return only[1]
  return terms
    .map(([symbols, coefficient]) =>
      symbols === '' ? String(coefficient) : coefficient === 1 ? symbols : `${coefficient}*${symbols}`,
    )
    .join('+')
}

/** The one text that stands for a dimension: terms in order, symbols sorted, equal terms joined. */
export function canonicalDim(dim: Dim): Dim {
  return print(parse(dim))
}

export function addDims(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return a + b
  const sum = new Map(parse(a))
  for (const [symbols, coefficient] of parse(b)) sum.set(symbols, (sum.get(symbols) ?? 0) + coefficient)
  return print(sum)
}

/**
 * `a - b`, the length between two positions; undefined when its sign hangs on the symbols (`batch - length`).
 * A negative constant may remain: `length - 1` is the length of what lies behind the first position.
 */
export function subtractDims(a: Dim, b: Dim): Dim | undefined {
  if (typeof a === 'number' && typeof b === 'number') return a - b
  const difference = new Map(parse(a))
  for (const [symbols, coefficient] of parse(b)) difference.set(symbols, (difference.get(symbols) ?? 0) - coefficient)
  const unclear = [...difference].some(([symbols, coefficient]) => symbols !== '' && coefficient < 0)
  return unclear ? undefined : print(difference)
}

export function multiplyDims(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return a * b
  const product = new Map<string, number>()
  for (const [left, x] of parse(a)) {
    for (const [right, y] of parse(b)) {
      const key = [left, right]
        .filter((part) => part !== '')
        .join('*')
        .split('*')
        .sort()
        .join('*')
      product.set(key, (product.get(key) ?? 0) + x * y)
    }
  }
  return print(product)
}

/** Product of all dimensions. */
export function sizeOf(shape: Shape): Dim {
  return shape.reduce<Dim>(multiplyDims, 1)
}

/** `a / b` when b is a single term that divides every term of a, or equals a; undefined otherwise. */
export function divideDims(a: Dim, b: Dim): Dim | undefined {
  const [below, ...moreBelow] = [...parse(b)]
  if (!below) return undefined
  if (moreBelow.length > 0) return canonicalDim(a) === canonicalDim(b) ? 1 : undefined
  const quotient = new Map<string, number>()
  for (const [symbols, coefficient] of parse(a)) {
    const rest = symbols === '' ? [] : symbols.split('*')
    for (const symbol of below[0] === '' ? [] : below[0].split('*')) {
      const at = rest.indexOf(symbol)
      if (at < 0) return undefined
      rest.splice(at, 1)
    }
    if (coefficient % below[1] !== 0) return undefined
    quotient.set(rest.join('*'), coefficient / below[1])
  }
  return print(quotient)
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, axis) => dim === b[axis])
}

export function showShape(shape: Shape): string {
  return `[${shape.join(', ')}]`
}

/**
 * The shape two operands broadcast to, by the NumPy rule; undefined when they do not.
 * A symbolic dimension broadcasts against itself and against 1.
 */
export function broadcastShapes(a: Shape, b: Shape): Shape | undefined {
  const rank = Math.max(a.length, b.length)
  const result: Dim[] = []
  for (let axis = 0; axis < rank; axis++) {
    const left = a[axis - rank + a.length] ?? 1
    const right = b[axis - rank + b.length] ?? 1
    if (left === right || right === 1) result.push(left)
    else if (left === 1) result.push(right)
    else return undefined
  }
  return result
}

/** The number a dimension stands for once every symbol has a value. */
export function evaluateDim(dim: Dim, values: Readonly<Record<string, number>>): number {
  let total = 0
  for (const [symbols, coefficient] of parse(dim)) {
    const factors = symbols === '' ? [] : symbols.split('*')
    total += factors.reduce((product, symbol) => {
      const value = values[symbol]
      if (value === undefined) throw new RangeError(`Dimension '${dim}' needs a value for '${symbol}'.`)
      return product * value
    }, coefficient)
  }
  return total
}
