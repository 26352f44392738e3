import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { narrowToBfloat16, narrowToFloat16, widenBfloat16, widenFloat16 } from '../../src/checkpoint/half.ts'
import { indexName, openSafetensors, writeSafetensors } from '../../src/checkpoint/safetensors.ts'
import type { HostTensor } from '../../src/graph/dtype.ts'
import { float32, int64 } from '../../src/graph/dtype.ts'
import {
  bytesOf,
  concatenated,
  expectClaraError,
  safetensors,
  temporaryFile,
  temporaryFolder,
  uint64,
  utf8,
} from './support.ts'

const openBytes = async (bytes: Uint8Array) => openSafetensors(await temporaryFile('model.safetensors', bytes))
const entry = (dtype: string, shape: readonly number[], start: number, end: number) => ({
  dtype,
  shape,
  data_offsets: [start, end],
})

const everyType = new Map<string, HostTensor>([
  ['float32', float32([1.5, -2, Infinity, 3e-40], [2, 2])],
  ['int64', int64([-1, 2 ** 40], [2])],
  ['int32', { dtype: 'int32', dims: [1, 2], data: Int32Array.of(-7, 8) }],
  ['int8', { dtype: 'int8', dims: [3], data: Int8Array.of(-128, 0, 127) }],
  ['uint8', { dtype: 'uint8', dims: [3], data: Uint8Array.of(0, 1, 255) }],
  ['bool', { dtype: 'bool', dims: [2], data: Uint8Array.of(1, 0) }],
  ['scalar', float32([4], [])],
  ['empty', float32([], [0, 3])],
])

describe('reading', () => {
  test('a file of the published tools: names, shape and bf16 values', async () => {
    await using file = await openSafetensors(
      new URL('../fixtures/parity/mistral-1/base/model.safetensors', import.meta.url).pathname,
    )
    const { dims, data, dtype } = await file.read('model.layers.1.mlp.down_proj.weight')
    expect({ dtype, dims, count: file.tensors.size }).toEqual({ dtype: 'float32', dims: [64, 128], count: 30 })
    // From the file's bytes by numpy.
    expect([...data.subarray(0, 3)]).toEqual([-0.03515625, -0.1298828125, -0.04638671875])
    expect([...data.subarray(-3)]).toEqual([0.1513671875, 0.0269775390625, 0.0439453125])
    expect(Object.fromEntries(file.metadata)).toEqual({ format: 'pt' })
  })

  test('float16 is widened, or kept when asked', async () => {
    await using file = await openBytes(
      safetensors({ h: entry('F16', [2], 0, 4) }, Uint8Array.of(0x00, 0x3c, 0x00, 0xc0)),
    )
    expect(await file.read('h')).toEqual(float32([1, -2], [2]))
    expect(await file.read('h', { keepFloat16: true })).toEqual({
      dtype: 'float16',
      dims: [2],
      data: Uint16Array.of(0x3c00, 0xc000),
    })
  })

  test('a type that cannot be read does not hide the others', async () => {
    await using file = await openBytes(
      safetensors({ d: entry('F64', [1], 0, 8), b: entry('U8', [1], 8, 9) }, new Uint8Array(9)),
    )
    expect((await file.read('b')).dims).toEqual([1])
    await expectClaraError(file.read('d'), /"d".*type that cannot be read.*F64/)
    await expectClaraError(file.read('absent'), /no tensor "absent"/)
  })
})

describe('a hostile or damaged file is refused with its reason', () => {
  const cases: readonly (readonly [string, Uint8Array, RegExp])[] = [
    ['no head', utf8('abc'), /not a safetensors file.*3 bytes/],
    [
      'a head beyond the limit',
      concatenated(uint64(2n ** 63n), new Uint8Array(8)),
      /not a safetensors file.*9223372036854775808/,
    ],
    ['a head beyond the file', concatenated(uint64(5000), utf8('{}')), /truncated inside its head/],
    ['a head that is not JSON', safetensors('{"a":', new Uint8Array(0)), /head that is not JSON/],
    ['a head that is not UTF-8', concatenated(uint64(2), [0xff, 0xfe]), /head that is not JSON/],
    ['a head that is a list', safetensors('[1]', new Uint8Array(0)), /no JSON object/],
    ['an unknown type', safetensors({ a: entry('F7', [1], 0, 4) }, new Uint8Array(4)), /"a" has the unknown type "F7"/],
    [
      'a type named like an object method',
      safetensors({ a: entry('toString', [1], 0, 4) }, new Uint8Array(4)),
      /unknown type/,
    ],
    [
      'a negative dimension',
      safetensors({ a: entry('F32', [-1], 0, 4) }, new Uint8Array(4)),
      /"a" has no proper shape/,
    ],
    [
      'offsets backwards',
      safetensors({ a: entry('F32', [1], 4, 0) }, new Uint8Array(4)),
      /takes 4 bytes, its offsets span -4/,
    ],
    [
      'a shape that does not fit',
      safetensors({ a: entry('F32', [2], 0, 4) }, new Uint8Array(4)),
      /takes 8 bytes, its offsets span 4/,
    ],
    [
      'a shape that overflows',
      safetensors({ a: entry('F32', [2 ** 50, 2 ** 50], 0, 4) }, new Uint8Array(4)),
      /"a" of shape/,
    ],
    [
      'an end beyond the file',
      safetensors({ a: entry('F32', [100], 0, 400) }, new Uint8Array(4)),
      /truncated: tensor "a"/,
    ],
    [
      'overlapping tensors',
      safetensors({ a: entry('F32', [1], 0, 4), b: entry('F32', [1], 2, 6) }, new Uint8Array(6)),
      /"b" starts at byte/,
    ],
    [
      'a gap',
      safetensors({ a: entry('U8', [1], 0, 1), b: entry('U8', [1], 2, 3) }, new Uint8Array(3)),
      /"b" starts at byte/,
    ],
    [
      'bytes of no tensor',
      safetensors({ a: entry('U8', [1], 0, 1) }, new Uint8Array(3)),
      /2 bytes that belong to no tensor/,
    ],
    ['a description that is no object', safetensors({ a: null }, new Uint8Array(0)), /"a" has no description/],
  ]
  test.for(cases)('%s', async ([, bytes, pattern]) => {
    await expectClaraError(openBytes(bytes), pattern)
  })

  test('a missing file', async () => {
    await expectClaraError(openSafetensors('/nowhere/model.safetensors'), /does not exist/)
  })
})

describe('writing', () => {
  test('every type comes back as it was, with the metadata', async () => {
    const path = join(await temporaryFolder(), 'out.safetensors')
    await writeSafetensors(path, everyType, { step: '12' })
    await using file = await openSafetensors(path)
    expect(Object.fromEntries(file.metadata)).toEqual({ step: '12' })
    expect([...file.tensors.keys()].sort()).toEqual([...everyType.keys()].sort())
    for (const [name, tensor] of everyType) expect(await file.read(name)).toEqual(tensor)
  })

  test('any tensors under any names come back bit for bit', async () => {
    const path = join(await temporaryFolder(), 'out.safetensors')
    const name = fc
      .oneof(fc.string({ unit: 'grapheme' }), fc.constantFrom('__proto__', 'constructor', 'a b'))
      .filter((text) => text !== '__metadata__')
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.tuple(name, fc.float32Array({ maxLength: 9 })), { selector: ([key]) => key, maxLength: 5 }),
        async (entries) => {
          await writeSafetensors(path, new Map(entries.map(([key, data]) => [key, float32(data, [data.length])])))
          await using file = await openSafetensors(path)
          expect(file.tensors.size).toBe(entries.length)
          for (const [key, data] of entries) expect(bytesOf((await file.read(key)).data)).toEqual(bytesOf(data))
        },
      ),
      { numRuns: 60 },
    )
  })

  test('the order of the tensors does not change the file', async () => {
    const folder = await temporaryFolder()
    await writeSafetensors(join(folder, 'a'), everyType)
    await writeSafetensors(join(folder, 'b'), new Map([...everyType].reverse()))
    expect(await readFile(join(folder, 'a'))).toEqual(await readFile(join(folder, 'b')))
  })

  test.for(['float16', 'bfloat16'] as const)('%s is stored rounded to nearest even', async (float) => {
    const path = join(await temporaryFolder(), 'out.safetensors')
    const values = Float32Array.of(1 / 3, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 65504, -1e-7)
    await writeSafetensors(
      path,
      new Map([
        ['w', float32(values, [5])],
        ['i', int64([3], [1])],
      ]),
      {},
      { float },
    )
    await using file = await openSafetensors(path)
    const expected =
      float === 'float16' ? widenFloat16(narrowToFloat16(values)) : widenBfloat16(narrowToBfloat16(values))
    expect(file.tensors.get('w')).toMatchObject({ storedType: float === 'float16' ? 'F16' : 'BF16', bytes: 10 })
    expect(await file.read('w')).toEqual(float32(expected, [5]))
    expect(await file.read('i')).toEqual(int64([3], [1]))
  })

  test.for(['float16', 'bfloat16'] as const)('%s tensors longer than one piece are seamless', async (float) => {
    const path = join(await temporaryFolder(), 'out.safetensors')
    // 6 MB of halves; integers up to 256 are exact in both formats.
    const values = Float32Array.from({ length: 3_000_001 }, (_, i) => i % 257)
    await writeSafetensors(path, new Map([['w', float32(values, [values.length])]]), {}, { float })
    await using file = await openSafetensors(path)
    expect(Buffer.from(bytesOf((await file.read('w')).data)).equals(bytesOf(values))).toBe(true)
  })

  test('tensors that are read when their turn comes give the same file, one at a time', async () => {
    const folder = await temporaryFolder()
    const tensors = new Map(['b', 'a', 'c'].map((name, index) => [name, float32([index, 1], [2])] as const))
    let reading = 0
    const late = new Map(
      [...tensors].map(([name, tensor]) => {
        const read = async () => {
          reading += 1
          await Promise.resolve()
          expect(reading).toBe(1)
          reading -= 1
          return tensor
        }
        return [name, { dims: tensor.dims, read }] as const
      }),
    )
    for (const float of ['float32', 'bfloat16'] as const) {
      await writeSafetensors(join(folder, 'now'), tensors, {}, { float })
      await writeSafetensors(join(folder, 'late'), late, {}, { float })
      expect(await readFile(join(folder, 'late'))).toEqual(await readFile(join(folder, 'now')))
    }
    const wrong = new Map([['w', { dims: [3], read: async () => float32([1, 2], [2]) }]])
    await expectClaraError(writeSafetensors(join(folder, 'wrong'), wrong), /"w" does not fit its shape \[3\]/)
    expect(await readdir(folder)).toEqual(['late', 'now'])
  })

  test('data that does not fit its shape, and the reserved name, are refused before anything is written', async () => {
    const folder = await temporaryFolder()
    const write = (name: string, tensor: HostTensor) => writeSafetensors(join(folder, 'out'), new Map([[name, tensor]]))
    await expectClaraError(write('w', float32([1, 2], [3])), /"w" does not fit its shape \[3\].*3 values.*2/)
    await expectClaraError(write('__metadata__', float32([1], [1])), /cannot be named "__metadata__"/)
    expect(await readdir(folder)).toEqual([])
  })
})

describe('sharded folders', () => {
  async function sharded(weightMap: unknown): Promise<string> {
    const folder = join(await temporaryFolder(), 'model')
    await mkdir(folder)
    await writeSafetensors(join(folder, 'model-00001-of-00002.safetensors'), new Map([['a', float32([1], [1])]]))
    await writeSafetensors(join(folder, 'model-00002-of-00002.safetensors'), new Map([['b', float32([2], [1])]]))
    await writeSafetensors(join(folder, '..', 'outside.safetensors'), new Map([['c', float32([3], [1])]]))
    await writeFile(
      join(folder, indexName),
      typeof weightMap === 'string' ? weightMap : JSON.stringify({ weight_map: weightMap }),
    )
    return folder
  }
  const first = 'model-00001-of-00002.safetensors'
  const second = 'model-00002-of-00002.safetensors'

  test('are one file to the reader', async () => {
    await using file = await openSafetensors(await sharded({ a: first, b: second }))
    expect(await file.read('a')).toEqual(float32([1], [1]))
    expect(await file.read('b')).toEqual(float32([2], [1]))
  })

  test.for(['../outside.safetensors', '/etc/passwd', '..', '', 'x/../y', 'x\\y', 7])(
    'a shard outside the folder is refused: %s',
    async (shard) => {
      await expectClaraError(
        openSafetensors(await sharded({ a: first, c: shard })),
        /names a shard outside its folder for tensor "c"/,
      )
    },
  )

  test('a missing shard, a missing tensor, a tensor in two shards, a broken index', async () => {
    await expectClaraError(
      openSafetensors(await sharded({ a: first, b: 'model-3.safetensors' })),
      /model-3\.safetensors" does not exist/,
    )
    await expectClaraError(openSafetensors(await sharded({ a: first, z: second })), /"z" is missing from shard/)
    await expectClaraError(openSafetensors(await sharded('{"weight_map": 3}')), /not an index of shards/)
    await expectClaraError(openSafetensors(await sharded('{')), /not an index of shards/)
    const folder = await sharded({ a: first, b: second })
    await writeSafetensors(
      join(folder, second),
      new Map([
        ['a', float32([9], [1])],
        ['b', float32([2], [1])],
      ]),
    )
    await expectClaraError(openSafetensors(folder), /"a" stands in two shards/)
  })
})
