/**
 * Block formats of ggml: a row is cut into blocks of equal length, each with its own scale(s). One entry of the table says how many
 * elements and bytes a block has and how its bytes become float32. All multi-byte numbers are little-endian.
 */
import { bfloat16ToNumber, float16ToNumber } from './half.ts'

/** How one tensor type lies in the file. */
export interface BlockFormat {
  readonly name: string
  /** Elements of a block; a row's length must be a multiple. */
  readonly elements: number
  /** Bytes of a block. */
  readonly bytes: number
  /** Writes `count` blocks of `source` as float32 to `target` from `start` on. */
  readonly dequantise: (source: Uint8Array, count: number, target: Float32Array, start: number) => void
}

function half(source: Uint8Array, at: number): number {
  return float16ToNumber(word(source, at))
}

function word(source: Uint8Array, at: number): number {
  return (source[at] as number) | ((source[at + 1] as number) << 8)
}

const f32: BlockFormat = {
  name: 'F32',
  elements: 1,
  bytes: 4,
  dequantise(source, count, target, start) {
    new Uint8Array(target.buffer, target.byteOffset + start * 4, count * 4).set(source.subarray(0, count * 4))
  },
}

const f16: BlockFormat = {
  name: 'F16',
  elements: 1,
  bytes: 2,
  dequantise(source, count, target, start) {
    for (let i = 0; i < count; i++) target[start + i] = half(source, 2 * i)
  },
}

const bf16: BlockFormat = {
  name: 'BF16',
  elements: 1,
  bytes: 2,
  dequantise(source, count, target, start) {
    for (let i = 0; i < count; i++) target[start + i] = bfloat16ToNumber(word(source, 2 * i))
  },
}

/** w = d · (q - 8): scale d (float16), 16 bytes that hold element i low and element i + 16 high. */
const q4Zero: BlockFormat = {
  name: 'Q4_0',
  elements: 32,
  bytes: 18,
  dequantise(source, count, target, start) {
    for (let block = 0, at = 0, out = start; block < count; block++, at += 18, out += 32) {
      const d = half(source, at)
      for (let i = 0; i < 16; i++) {
        const pair = source[at + 2 + i] as number
        target[out + i] = d * ((pair & 15) - 8)
        target[out + 16 + i] = d * ((pair >> 4) - 8)
      }
    }
  },
}

/** w = d · q + m: scale d and minimum m (float16), then as Q4_0. */
const q4One: BlockFormat = {
  name: 'Q4_1',
  elements: 32,
  bytes: 20,
  dequantise(source, count, target, start) {
    for (let block = 0, at = 0, out = start; block < count; block++, at += 20, out += 32) {
      const d = half(source, at)
      const m = half(source, at + 2)
      for (let i = 0; i < 16; i++) {
        const pair = source[at + 4 + i] as number
        target[out + i] = d * (pair & 15) + m
        target[out + 16 + i] = d * (pair >> 4) + m
      }
    }
  },
}

/** w = d · q: scale d (float16), 32 signed bytes. */
const q8Zero: BlockFormat = {
  name: 'Q8_0',
  elements: 32,
  bytes: 34,
  dequantise(source, count, target, start) {
    for (let block = 0, at = 0, out = start; block < count; block++, at += 34, out += 32) {
      const d = half(source, at)
      for (let i = 0; i < 32; i++) target[out + i] = d * (((source[at + 2 + i] as number) << 24) >> 24)
    }
  },
}

/**
 * w = d · s_j · q - d_min · m_j in eight sub-blocks of 32: d, d_min (float16), twelve bytes of packed 6-bit s_j and m_j, 128 bytes of
 * nibbles. Of each 32 bytes the low nibbles are one sub-block and the high nibbles the next.
 */
const q4K: BlockFormat = {
  name: 'Q4_K',
  elements: 256,
  bytes: 144,
  dequantise(source, count, target, start) {
    for (let block = 0, at = 0, out = start; block < count; block++, at += 144, out += 256) {
      const d = half(source, at)
      const dMin = half(source, at + 2)
      for (let j = 0; j < 8; j++) {
        const packed = at + 4 + j
        const low = source[packed] as number
        const high = source[packed + 4] as number
        // The last four scales and minima keep their low four bits in bytes 8-11, their high two atop the first eight.
        const scale = j < 4 ? low & 63 : (high & 15) | (((source[packed - 4] as number) >> 6) << 4)
        const minimum = j < 4 ? high & 63 : (high >> 4) | ((low >> 6) << 4)
        const step = d * scale
        const offset = dMin * minimum
        const nibbles = at + 16 + (j >> 1) * 32
        const shift = (j & 1) * 4
        for (let i = 0; i < 32; i++)
          target[out + 32 * j + i] = step * (((source[nibbles + i] as number) >> shift) & 15) - offset
      }
    }
  },
}

/**
 * w = d · s_j · (q - 32) in sixteen sub-blocks of 16: 128 bytes of low nibbles, 64 bytes of high bit pairs, sixteen signed scales, d
 * (float16). Each half of 128 elements takes 64 + 32 + 8 of those bytes.
 */
const q6K: BlockFormat = {
  name: 'Q6_K',
  elements: 256,
  bytes: 210,
  dequantise(source, count, target, start) {
    for (let block = 0, at = 0, out = start; block < count; block++, at += 210, out += 256) {
      const d = half(source, at + 208)
      for (let part = 0; part < 8; part++) {
        // part = 32 elements: which half of the block, which bytes of low nibbles, which shifts.
        const quarter = part & 3
        const nibbles = at + (part >> 2) * 64 + (quarter & 1) * 32
        const nibbleShift = (quarter >> 1) * 4
        const pairs = at + 128 + (part >> 2) * 32
        const pairShift = quarter * 2
        for (let i = 0; i < 32; i++) {
          const scale = ((source[at + 192 + part * 2 + (i >> 4)] as number) << 24) >> 24
          const low = ((source[nibbles + i] as number) >> nibbleShift) & 15
          const high = ((source[pairs + i] as number) >> pairShift) & 3
          target[out + 32 * part + i] = d * scale * ((low | (high << 4)) - 32)
        }
      }
    }
  },
}

/** Tensor types by their number in the file. */
export const blockFormats: ReadonlyMap<number, BlockFormat> = new Map([
  [0, f32],
  [1, f16],
  [2, q4Zero],
  [3, q4One],
  [8, q8Zero],
  [12, q4K],
  [14, q6K],
  [30, bf16],
])
