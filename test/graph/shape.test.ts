import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  addDims,
  broadcastShapes,
  canonicalDim,
  type Dim,
  divideDims,
  evaluateDim,
  multiplyDims,
  sizeOf,
  subtractDims,
} from '../../src/graph/shape.ts'

/** A polynomial as a sum of products of symbols and numbers, not yet in canonical form. */
const factor = fc.oneof(fc.constantFrom('a', 'b', 'length'), fc.integer({ min: 0, max: 5 }))
const term = fc.array(factor, { minLength: 1, maxLength: 3 })
const polynomial = fc.array(term, { minLength: 1, maxLength: 4 })
const lengths = fc.record({
  a: fc.integer({ min: 0, max: 9 }),
  b: fc.integer({ min: 0, max: 9 }),
  length: fc.integer({ min: 0, max: 9 }),
})
type Terms = readonly (readonly Dim[])[]
type Lengths = Readonly<Record<string, number>>

const toDim = (terms: Terms): Dim =>
  terms.map((factors) => factors.reduce<Dim>(multiplyDims, 1)).reduce<Dim>(addDims, 0)

/** The same by plain numbers. */
const toNumber = (terms: Terms, sizes: Lengths): number =>
  terms
    .map((factors) => factors.reduce<number>((total, f) => total * (typeof f === 'number' ? f : (sizes[f] ?? 0)), 1))
    .reduce((total, value) => total + value, 0)

describe('dimensions', () => {
  test('sums and products stand for the sums and products of the numbers', () => {
    fc.assert(
      fc.property(polynomial, polynomial, lengths, (p, q, sizes) => {
        const [x, y] = [toDim(p), toDim(q)]
        expect(evaluateDim(x, sizes)).toBe(toNumber(p, sizes))
        expect(evaluateDim(addDims(x, y), sizes)).toBe(toNumber(p, sizes) + toNumber(q, sizes))
        expect(evaluateDim(multiplyDims(x, y), sizes)).toBe(toNumber(p, sizes) * toNumber(q, sizes))
      }),
    )
  })

  test('are written in one way, however they were built', () => {
    fc.assert(
      fc.property(polynomial, polynomial, polynomial, (p, q, r) => {
        const [x, y, z] = [toDim(p), toDim(q), toDim(r)]
        expect(addDims(x, y)).toBe(addDims(y, x))
        expect(multiplyDims(x, y)).toBe(multiplyDims(y, x))
        expect(multiplyDims(x, addDims(y, z))).toBe(addDims(multiplyDims(x, y), multiplyDims(x, z)))
        expect(canonicalDim(x)).toBe(x)
      }),
    )
    expect(canonicalDim('b+2*b+a*1')).toBe('3*b+a')
    expect(canonicalDim('length*batch')).toBe('batch*length')
  })

  test('a difference, added again, gives what it was taken from', () => {
    fc.assert(
      fc.property(polynomial, polynomial, (p, q) => {
        const [x, y] = [toDim(p), toDim(q)]
        expect(subtractDims(addDims(x, y), y)).toBe(x)
        const difference = subtractDims(x, y)
        if (difference !== undefined) expect(addDims(difference, y)).toBe(x)
      }),
    )
    expect(subtractDims('length', 1)).toBe('length+-1')
    expect(subtractDims('2*a', 'a')).toBe('a')
    expect(subtractDims('a', 'b')).toBeUndefined()
    expect(evaluateDim('length+-1', { length: 7 })).toBe(6)
  })

  test('a quotient by one term, multiplied again, gives what was divided', () => {
    fc.assert(
      fc.property(polynomial, term, (p, t) => {
        const [x, divisor] = [toDim(p), toDim([t])]
        if (divisor === 0) expect(divideDims(x, divisor)).toBeUndefined()
        else expect(divideDims(multiplyDims(x, divisor), divisor)).toBe(x)
        const quotient = divideDims(x, divisor)
        if (quotient !== undefined) expect(multiplyDims(quotient, divisor)).toBe(x)
      }),
    )
    expect(divideDims(7, 2)).toBeUndefined()
    expect(divideDims('a', 'b')).toBeUndefined()
    expect(divideDims('past+length', 'past+length')).toBe(1)
    expect(divideDims('a*length+a*past', 'a')).toBe('past+length')
  })

  test('a symbol without a value is told', () => {
    expect(() => evaluateDim('a*b', { a: 2 })).toThrow(/'a\*b' needs a value for 'b'/)
  })
})

describe('broadcasting', () => {
  test('agrees with brute force on numbers', () => {
    const shape = fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 4 })
    fc.assert(
      fc.property(shape, shape, (a, b) => {
        const rank = Math.max(a.length, b.length)
        const padded = (dims: number[]) => [...Array<number>(rank - dims.length).fill(1), ...dims]
        const pairs = padded(a).map((dim, axis): [number, number] => [dim, padded(b)[axis] ?? 1])
        const fits = pairs.every(([x, y]) => x === y || Math.min(x, y) === 1)
        expect(broadcastShapes(a, b)).toEqual(fits ? pairs.map(([x, y]) => Math.max(x, y)) : undefined)
      }),
    )
  })

  test('a symbol broadcasts against itself and 1 only', () => {
    expect(broadcastShapes(['batch', 1], ['batch', 'length'])).toEqual(['batch', 'length'])
    expect(broadcastShapes(['batch'], ['length'])).toBeUndefined()
    expect(broadcastShapes(['batch'], [2])).toBeUndefined()
  })

  test('a shape holds the product of its dimensions', () => {
    expect(sizeOf([])).toBe(1)
    expect(sizeOf(['batch', 3, 'length', 2])).toBe('6*batch*length')
  })
})
