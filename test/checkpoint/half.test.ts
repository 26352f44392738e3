import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  bfloat16ToNumber,
  float16ToNumber,
  narrowToBfloat16,
  narrowToFloat16,
  numberToBfloat16,
  numberToFloat16,
  widenBfloat16,
  widenFloat16,
} from '../../src/checkpoint/half.ts'

/** The definition of IEEE 754 binary16, by arithmetic. */
function float16ByDefinition(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN
  return exponent === 0 ? sign * 2 ** -24 * fraction : sign * 2 ** (exponent - 15) * (1 + fraction / 1024)
}

const allBits = Uint16Array.from({ length: 65536 }, (_, bits) => bits)

/** Every non-negative finite value of a 16-bit format, ascending, as its bits are. */
function ladder(toNumber: (bits: number) => number, largest: number): number[] {
  return Array.from({ length: largest + 1 }, (_, bits) => toNumber(bits))
}

/** The nearest entry of a ladder by search; on a tie the even one. The step above the top is the last one repeated. */
function nearest(values: readonly number[], magnitude: number): number {
  let low = 0
  let high = values.length
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if ((values[middle] ?? Infinity) <= magnitude) low = middle
    else high = middle
  }
  const below = values[low] ?? 0
  const above = values[low + 1] ?? below + (below - (values[low - 1] ?? 0))
  const half = below + (above - below) / 2
  return magnitude > half || (magnitude === half && low % 2 === 1) ? low + 1 : low
}

describe('float16', () => {
  test('all 65,536 values widen to what the definition says', () => {
    const widened = widenFloat16(allBits)
    for (let bits = 0; bits < 65536; bits++) {
      const expected = float16ByDefinition(bits)
      if (!Object.is(widened[bits], expected)) expect.fail(`${bits}: ${widened[bits]}, not ${expected}`)
      if (!Object.is(float16ToNumber(bits), expected)) expect.fail(`${bits}: ${float16ToNumber(bits)}, not ${expected}`)
    }
  })

  test('all 65,536 values come back from float32 unchanged; NaN stays NaN', () => {
    const back = narrowToFloat16(widenFloat16(allBits))
    for (let bits = 0; bits < 65536; bits++) {
      const same = Number.isNaN(float16ByDefinition(bits))
        ? Number.isNaN(float16ByDefinition(back[bits] ?? 0))
        : back[bits] === bits
      if (!same) expect.fail(`${bits} came back as ${back[bits]}`)
    }
  })

  test('halfway between each two neighbours goes to the even one, a little beyond to the nearer', () => {
    for (let bits = 0; bits < 0x7bff; bits++) {
      const [below, above] = [float16ByDefinition(bits), float16ByDefinition(bits + 1)]
      const middle = (below + above) / 2
      const even = bits % 2 === 0 ? bits : bits + 1
      // The next float32 on either side of the middle, which is itself exact in float32.
      const step = middle * 2 ** -23
      const found = [
        numberToFloat16(middle),
        numberToFloat16(Math.fround(middle - step)),
        numberToFloat16(Math.fround(middle + step)),
      ]
      if (found[0] !== even || found[1] !== bits || found[2] !== bits + 1) expect.fail(`${bits}: ${found}`)
    }
  })

  test('any float32 narrows to the nearest value', () => {
    const values = ladder(float16ByDefinition, 0x7bff)
    fc.assert(
      fc.property(
        fc.oneof(
          fc.float({ noNaN: true }),
          fc.float({ noNaN: true, min: -70000, max: 70000 }),
          fc.float({ noNaN: true, min: -Math.fround(1e-4), max: Math.fround(1e-4) }),
        ),
        (value) => {
          const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0
          expect(numberToFloat16(value)).toBe(sign | nearest(values, Math.abs(value)))
        },
      ),
      { numRuns: 2000 },
    )
  })

  test('beyond the range is infinity', () => {
    expect(numberToFloat16(65519)).toBe(0x7bff)
    expect(numberToFloat16(65520)).toBe(0x7c00)
    expect(numberToFloat16(-1e30)).toBe(0xfc00)
    expect(numberToFloat16(Infinity)).toBe(0x7c00)
  })
})

describe('bfloat16', () => {
  test('all 65,536 values are the upper half of a float32 and come back unchanged', () => {
    const widened = widenBfloat16(allBits)
    const view = new DataView(new ArrayBuffer(4))
    const back = narrowToBfloat16(widened)
    for (let bits = 0; bits < 65536; bits++) {
      view.setUint16(0, bits)
      const expected = view.getFloat32(0)
      const value = widened[bits] ?? 0
      if (!Object.is(value, expected) || !Object.is(bfloat16ToNumber(bits), expected))
        expect.fail(`${bits}: ${value}, not ${expected}`)
      const same = Number.isNaN(expected) ? Number.isNaN(bfloat16ToNumber(back[bits] ?? 0)) : back[bits] === bits
      if (!same) expect.fail(`${bits} came back as ${back[bits]}`)
    }
  })

  test('any float32 narrows to the nearest value, ties to even', () => {
    const values = ladder(bfloat16ToNumber, 0x7f7f)
    const view = new DataView(new ArrayBuffer(4))
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 0x7f7f }),
        fc.constantFrom(0, 1, 0x7fff, 0x8000, 0x8001, 0xffff),
        fc.boolean(),
        (upper, lower, negative) => {
          view.setUint16(0, upper)
          view.setUint16(2, lower)
          const magnitude = view.getFloat32(0)
          expect(numberToBfloat16(negative ? -magnitude : magnitude)).toBe(
            (negative ? 0x8000 : 0) | nearest(values, magnitude),
          )
        },
      ),
      { numRuns: 2000 },
    )
  })
})
