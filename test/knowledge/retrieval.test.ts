import { describe, expect, test } from 'vitest'
import type { Memory } from '../../src/clara/encoder.ts'
import { createRandom } from '../../src/data/random.ts'
import { expandCount } from '../../src/knowledge/expand.ts'
import { fuse } from '../../src/knowledge/fusion.ts'
import { createProjection } from '../../src/knowledge/projection.ts'
import {
  createQuestionVectors,
  createVectors,
  type MemoryShape,
  vectorSettings,
  vectorWidth,
} from '../../src/knowledge/vectors.ts'

const random = createRandom(7)
const normals = (length: number) => Float32Array.from({ length }, () => random.normal())

function cosine(a: Float32Array, b: Float32Array): number {
  const dot = (x: Float32Array, y: Float32Array) => x.reduce((sum, value, index) => sum + value * (y[index] ?? 0), 0)
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))
}

describe('the projection', () => {
  test('is linear, the same for the same seed, and an orthonormal transform where nothing is left out', () => {
    const project = createProjection(5, 8, 1)
    const [a, b] = [normals(5), normals(5)]
    const sum = project(Float32Array.from(a, (value, index) => value + 2 * (b[index] ?? 0)))
    const [pa, pb] = [project(a), project(b)]
    sum.forEach((value, index) => {
      expect(value).toBeCloseTo((pa[index] ?? 0) + 2 * (pb[index] ?? 0), 4)
    })
    expect(createProjection(5, 8, 1)(a)).toEqual(pa)
    expect(createProjection(5, 8, 2)(a)).not.toEqual(pa)
    expect(cosine(pa, pb)).toBeCloseTo(cosine(a, b), 5)
    expect(() => createProjection(5, 9, 1)).toThrow(/cannot have 9/)
  })

  test('keeps cosines within some 1/√width', () => {
    const [length, width] = [3_000, 512]
    const project = createProjection(length, width, 3)
    let squares = 0
    const pairs = 40
    for (let pair = 0; pair < pairs; pair++) {
      const a = normals(length)
      const b = Float32Array.from(normals(length), (value, index) => value + (pair / 10) * (a[index] ?? 0))
      squares += (cosine(project(a), project(b)) - cosine(a, b)) ** 2
    }
    // unrelated vectors would be off by 1/√512 = .044; a broken projection by far more
    expect(Math.sqrt(squares / pairs)).toBeLessThan(0.044)
  })
})

describe('retrieval vectors', () => {
  const memory = (tokens: Float32Array, hidden: number): Memory => ({ tokens, shape: [tokens.length / hidden, hidden] })

  test('maxsim: the mean of the normalised tokens, less what the first memories have in common, whitened', () => {
    const shape: MemoryShape = { similarity: 'maxsim', hidden: 2, tokens: 0 }
    const first = Array.from({ length: 12 }, () => memory(Float32Array.of(3, 4, 0, 2), 2))
    const settings = vectorSettings(shape, first)
    // the tokens' directions are (.6, .8) and (0, 1), their mean (.3, .9); twelve texts count as twelve of sixteen
    expect(settings).toMatchObject({ similarity: 'maxsim', width: 2 })
    const [cx = 0, cy = 0] = settings.centre ?? []
    expect(cx).toBeCloseTo(0.3 * 0.75, 6)
    expect(cy).toBeCloseTo(0.9 * 0.75, 6)
    const sumOver = (term: (x: number, y: number) => number) =>
      (0.75 * (term(0.6 - cx, 0.8 - cy) + term(-cx, 1 - cy))) / 2
    const [xx, xy, yy] = [sumOver((x) => x * x), sumOver((x, y) => x * y), sumOver((_, y) => y * y)]
    const ridge = (xx + yy) / 2
    const determinant = (xx + ridge) * (yy + ridge) - xy * xy
    // inner products of whitened vectors are those by the inverse of the covariance
    const product = (a: readonly number[], b: readonly number[]) => {
      const [[ax = 0, ay = 0], [bx = 0, by = 0]] = [a, b]
      return ((yy + ridge) * ax * bx - xy * (ax * by + ay * bx) + (xx + ridge) * ay * by) / determinant
    }
    const vectorOf = createVectors(shape, settings)
    const [one, other] = [vectorOf(memory(Float32Array.of(5, 0), 2)), vectorOf(memory(Float32Array.of(0, 7, 0, 1), 2))]
    const [a, b] = [
      [1 - cx, -cy],
      [-cx, 1 - cy],
    ] as const
    expect((one[0] ?? 0) * (other[0] ?? 0) + (one[1] ?? 0) * (other[1] ?? 0)).toBeCloseTo(product(a, b), 4)
    expect((one[0] ?? 0) ** 2 + (one[1] ?? 0) ** 2).toBeCloseTo(product(a, a), 4)
  })

  test('maxsim: tokens that all texts share count for little, so that a rare one finds its text', () => {
    const hidden = 64
    const shape: MemoryShape = { similarity: 'maxsim', hidden, tokens: 0 }
    const [common, ...rare] = Array.from({ length: 31 }, () => normals(hidden))
    const axes = Array.from({ length: 4 }, () => normals(hidden))
    // in every text the common token in six shades along few directions, and one token of its own
    const texts = rare.map((own) => {
      const shades = Array.from({ length: 6 }, () => {
        const amounts = axes.map(() => random.normal())
        return Array.from({ length: hidden }, (_, place) =>
          axes.reduce((sum, axis, index) => sum + (amounts[index] ?? 0) * (axis[place] ?? 0), common?.[place] ?? 0),
        )
      })
      return memory(Float32Array.from([...shades.flat(), ...own]), hidden)
    })
    const settings = vectorSettings(shape, texts)
    const { whitening: _, ...plain } = settings
    const [whitened, centred] = [settings, plain].map((kind) => {
      const vectorOf = createVectors(shape, kind)
      const vectors = texts.map(vectorOf)
      return rare.filter((own, index) => {
        const asked = vectorOf(memory(Float32Array.from([...(common ?? []), ...own]), hidden))
        const cosines = vectors.map((vector) => cosine(asked, vector))
        return cosines.indexOf(Math.max(...cosines)) === index
      }).length
    })
    expect(whitened).toBe(rare.length)
    expect(centred).toBeLessThan(rare.length)
  })

  test("maxsim: the vector of a question that passed a projection has with a text's the product that their means have", () => {
    const shape: MemoryShape = { similarity: 'maxsim', hidden: 8, tokens: 0 }
    const texts = Array.from({ length: 30 }, () => memory(Float32Array.from([...normals(8), ...normals(8)]), 8))
    const settings = vectorSettings(shape, texts)
    const [asked, plain] = [true, false].map((projected) => createQuestionVectors(shape, settings, projected))
    const vectorOf = createVectors(shape, settings)
    const question = memory(Float32Array.from(normals(8)), 8)
    expect(plain?.(question)).toEqual(vectorOf(question))
    const vector = asked?.(question) ?? []
    const direction = [...question.tokens].map((value) => value / Math.hypot(...question.tokens))
    for (const text of texts) {
      const mean = [0, 1].flatMap((token) => {
        const own = [...text.tokens.subarray(8 * token, 8 * token + 8)]
        return [own.map((value) => value / Math.hypot(...own))]
      })
      const centred = Array.from(
        { length: 8 },
        (_, place) => ((mean[0]?.[place] ?? 0) + (mean[1]?.[place] ?? 0)) / 2 - (settings.centre?.[place] ?? 0),
      )
      const expected = centred.reduce((sum, value, place) => sum + value * (direction[place] ?? 0), 0)
      const found = vectorOf(text).reduce((sum, value, place) => sum + value * (vector[place] ?? 0), 0)
      expect(found).toBeCloseTo(expected, 4)
    }
  })

  test('flat: the cosine of what comes out is the score, up to the projection', () => {
    const shape: MemoryShape = { similarity: 'flat', hidden: 64, tokens: 32 }
    expect(vectorWidth(shape)).toBe(768)
    const settings = vectorSettings(shape, [])
    expect(settings.centre).toBeUndefined()
    const vectorOf = createVectors(shape, settings)
    const a = normals(2048)
    const b = Float32Array.from(normals(2048), (value, index) => value + (a[index] ?? 0))
    expect(cosine(vectorOf(memory(a, 64)), vectorOf(memory(b, 64)))).toBeCloseTo(cosine(a, b), 1)
    const narrow: MemoryShape = { similarity: 'flat', hidden: 4, tokens: 3 }
    expect(vectorWidth(narrow)).toBe(12)
    expect(vectorSettings(narrow, [])).toEqual({ similarity: 'flat', width: 12 })
  })

  test('a memory of zeros gets a direction all the same', () => {
    const shape: MemoryShape = { similarity: 'flat', hidden: 2, tokens: 2 }
    expect(createVectors(shape, vectorSettings(shape, []))(memory(new Float32Array(4), 2))).toEqual(
      Float32Array.of(1, 0, 0, 0),
    )
  })
})

test('fusion: reciprocal ranks, by hand', () => {
  const lists = [
    { ids: ['a', 'b', 'c'], weight: 1 },
    { ids: ['c', 'd'], weight: 1 },
  ]
  // a: 1/61; b: 1/62; c: 1/63 + 1/61; d: 1/62
  expect(fuse(lists)).toEqual(['c', 'a', 'b', 'd'])
  expect(
    fuse([
      { ids: ['a'], weight: 0 },
      { ids: ['b'], weight: 2 },
    ]),
  ).toEqual(['b'])
})

test('how many passages are read as text', () => {
  expect(expandCount('auto', [0.9, 0.5, 0.45, 0.4])).toBe(1)
  expect(expandCount('auto', [0.9, 0.88, 0.5, 0.45])).toBe(2)
  expect(expandCount('auto', [0.88, 0.9, 0.86, 0.4, 0.1])).toBe(3)
  // the largest gap is below the fourth, which is further than auto goes
  expect(expandCount('auto', [0.9, 0.85, 0.84, 0.83, 0.1])).toBe(1)
  expect(expandCount('auto', [0.5, 0.5])).toBe(1)
  expect(expandCount('auto', [])).toBe(0)
  expect(expandCount(5, [1, 2])).toBe(2)
})
