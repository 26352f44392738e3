import { rotationFor } from './rotation.ts'

/*
 * Sign codes of memory tokens, after RaBitQ (Gao and Long 2024): of a token t of length 1 and a centre c, the residual r = t - c is kept as the signs s of
 * its first {@link signsOf} numbers, one bit each, after a rotation, and the factor f = |r|² / Σ|rᵢ|, the sum over these. For a question's token q, rotated too, q·t is
 * estimated as q·c + f · Σ sᵢqᵢ, which is off by about .88 |r| / √width whatever the direction of the error, so that the best of a passage's tokens are found at a thirtieth of
 * float32's bytes.
 *
 * Tokens are packed sixteen to a block, byte b of token t at 16 b + t, as the kernel reads them; four signs index a table of sums ±q.
 */

/** Tokens of a block. */
export const BLOCK = 16
/** A factor is kept as so many parts of 1. */
export const FACTOR = 32_768
/**
 * Eight entries of a table are added as bytes. Rounded so coarsely they move an estimate by .002 a token, which is little beside the .03 that
 * signs are off by.
 */
const LARGEST_ENTRY = 31

/** Tokens beyond so many of one row are not looked at. */
const MOST_TOKENS = 0xffff

/** Numbers of a token whose signs are kept: a ninth fewer cost little, since a rotation has spread over all of them what is in each. */
export const signsOf = (width: number): number => Math.min(width, Math.max(8, 8 * Math.floor(width / 9)))
/** Bytes of one token's signs. */
export const signBytes = (width: number): number => Math.ceil(signsOf(width) / 8)
/** Bytes of a passage's own bit string, as {@link RowCode.summary}. */
export const summaryBytes = (width: number): number => Math.ceil(width / 128) * 16

/** The code of one row's memory. */
export interface RowCode {
  /** Tokens. */
  readonly n: number
  /** Signs, {@link signBytes} a token, the first number in the lowest bit. */
  readonly signs: Uint8Array
  /** One a token, as parts of {@link FACTOR}. */
  readonly factors: Uint16Array
  /**
   * Signs of the tokens' mean, less the centre: rows of like content differ in few of them. Not rotated, so that numbers that differ little
   * from row to row count as much as those that differ much.
   */
  readonly summary: Uint8Array
}

/**
 * @param tokens [n, width], of any length; a token of zeros stays one.
 * @param centre [width], about the mean of tokens of length 1.
 */
export function encodeRow(tokens: Float32Array, width: number, centre: Float32Array): RowCode {
  const n = Math.min(MOST_TOKENS, tokens.length / width)
  const [kept, bytes] = [signsOf(width), signBytes(width)]
  const signs = new Uint8Array(n * bytes)
  const factors = new Uint16Array(n)
  const mean = new Float32Array(width)
  const residual = new Float32Array(width)
  const rotate = rotationFor(width)
  for (let token = 0; token < n; token++) {
    const start = token * width
    const scale = inverseLength(tokens, start, width)
    for (let index = 0; index < width; index++) {
      residual[index] = (tokens[start + index] ?? 0) * scale - (centre[index] ?? 0)
      mean[index] = (mean[index] ?? 0) + (residual[index] ?? 0)
    }
    rotate(residual)
    let [squares, sum] = [0, 0]
    for (const value of residual) squares += value * value
    for (let index = 0; index < kept; index++) {
      const value = residual[index] ?? 0
      sum += Math.abs(value)
      if (value >= 0)
        signs[token * bytes + (index >> 3)] = (signs[token * bytes + (index >> 3)] ?? 0) | (1 << (index & 7))
    }
    factors[token] = sum === 0 ? 0 : Math.min(0xffff, Math.round((squares / sum) * FACTOR))
  }
  const summary = new Uint8Array(summaryBytes(width))
  for (let index = 0; index < width; index++) {
    if ((mean[index] ?? 0) >= 0) summary[index >> 3] = (summary[index >> 3] ?? 0) | (1 << (index & 7))
  }
  return { n, signs, factors, summary }
}

/** Mean of all tokens of some memories, each at length 1: a centre for {@link encodeRow}. */
export function centreOf(memories: readonly Float32Array[], width: number): Float32Array {
  const centre = new Float64Array(width)
  let count = 0
  for (const tokens of memories) {
    for (let start = 0; start < tokens.length; start += width, count++) {
      const scale = inverseLength(tokens, start, width)
      for (let index = 0; index < width; index++)
        centre[index] = (centre[index] ?? 0) + (tokens[start + index] ?? 0) * scale
    }
  }
  return Float32Array.from(centre, (value) => value / Math.max(1, count))
}

function inverseLength(values: Float32Array, start: number, width: number): number {
  let squares = 0
  for (let index = start; index < start + width; index++) squares += (values[index] ?? 0) ** 2
  return squares === 0 ? 0 : 1 / Math.sqrt(squares)
}

/** Rows together, as the kernel reads them. */
export interface PackedRows {
  /** Blocks of signs; the last one is filled up with zeros. */
  readonly signs: Uint8Array
  /** One a token, and 0 for those that fill up the last block. */
  readonly factors: Uint16Array
}

export const blocksFor = (tokens: number): number => Math.ceil(tokens / BLOCK)

/** @param width Numbers of a token. */
export function packRows(codes: readonly Pick<RowCode, 'n' | 'signs' | 'factors'>[], width: number): PackedRows {
  const bytes = signBytes(width)
  const blocks = blocksFor(codes.reduce((sum, { n }) => sum + n, 0))
  const signs = new Uint8Array(blocks * BLOCK * bytes)
  const factors = new Uint16Array(blocks * BLOCK)
  let place = 0
  for (const code of codes) {
    for (let token = 0; token < code.n; token++, place++) {
      factors[place] = code.factors[token] ?? 0
      const start = Math.floor(place / BLOCK) * BLOCK * bytes + (place % BLOCK)
      for (let byte = 0; byte < bytes; byte++) signs[start + byte * BLOCK] = code.signs[token * bytes + byte] ?? 0
    }
  }
  return { signs, factors }
}

/** A token of a question, ready to be compared with codes: q·t is about `base + f · (scale · sum + bias)`. */
export interface AskedToken {
  /** 16 sums for each four signs. */
  readonly tables: Uint8Array
  readonly base: number
  readonly scale: number
  readonly bias: number
}

/** @param tokens [n, width], of any length. */
export function askedTokens(tokens: Float32Array, width: number, centre: Float32Array): AskedToken[] {
  const [kept, groups] = [signsOf(width), signBytes(width) * 2]
  const rotate = rotationFor(width)
  // all sums together stay within 16 bits
  const largest = Math.min(LARGEST_ENTRY, Math.floor(0xffff / groups))
  const asked: AskedToken[] = []
  for (let start = 0; start < tokens.length; start += width) {
    const length = inverseLength(tokens, start, width)
    const direction = new Float32Array(width)
    let [base, total, widest] = [0, 0, 0]
    for (let index = 0; index < width; index++) {
      direction[index] = (tokens[start + index] ?? 0) * length
      base += (direction[index] ?? 0) * (centre[index] ?? 0)
    }
    rotate(direction)
    const values = new Float32Array(groups * 4)
    values.set(direction.subarray(0, kept))
    for (const value of values) total += Math.abs(value)
    for (let group = 0; group < groups; group++) widest = Math.max(widest, 2 * spreadOf(values, group))
    const scale = widest / largest || 1
    const tables = new Uint8Array(groups * 16)
    for (let group = 0; group < groups; group++) {
      const spread = spreadOf(values, group)
      for (let signs = 0; signs < 16; signs++) {
        let sum = spread
        for (let bit = 0; bit < 4; bit++) sum += (values[group * 4 + bit] ?? 0) * ((signs >> bit) & 1 ? 1 : -1)
        tables[group * 16 + signs] = Math.round(sum / scale)
      }
    }
    asked.push({ tables, base, scale, bias: -total })
  }
  return asked
}

function spreadOf(values: Float32Array, group: number): number {
  let sum = 0
  for (let index = group * 4; index < group * 4 + 4; index++) sum += Math.abs(values[index] ?? 0)
  return sum
}
