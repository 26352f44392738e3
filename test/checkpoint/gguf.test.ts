import { readFile, truncate } from 'node:fs/promises'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { blockFormats } from '../../src/checkpoint/ggml-blocks.ts'
import { openGguf } from '../../src/checkpoint/gguf.ts'
import { ClaraError } from '../../src/errors.ts'
import type { GgufValue } from './support.ts'
import { bytesOf, concatenated, expectClaraError, gguf, temporaryFile, uint32, uint64, utf8 } from './support.ts'

const numbers = Float32Array.from({ length: 6 }, (_, i) => i / 4)
const small = { name: 'a', dims: [2, 3], type: 0, bytes: bytesOf(numbers) }

async function openBytes(bytes: Uint8Array) {
  return openGguf(await temporaryFile('model.gguf', bytes))
}

interface BlockFixture {
  readonly blocks: Readonly<Record<string, { readonly bytes: string; readonly values: string }>>
}

describe('dequantisation', async () => {
  const fixture: BlockFixture = JSON.parse(await readFile(new URL('ggml-blocks.json', import.meta.url), 'utf8'))

  test('the fixture covers every format', () => {
    expect(Object.keys(fixture.blocks).sort()).toEqual([...blockFormats.values()].map((format) => format.name).sort())
  })

  test.for([...blockFormats.entries()])(
    'type %i gives the values of the reference implementation, bit for bit',
    async ([type, format]) => {
      const stored = fixture.blocks[format.name]
      const bytes = Buffer.from(stored?.bytes ?? '', 'hex')
      const expected = Buffer.from(stored?.values ?? '', 'hex').swap32()
      await using file = await openBytes(
        gguf({}, [{ name: 'w', dims: [(bytes.length / format.bytes) * format.elements], type, bytes }]),
      )
      const tensor = await file.read('w')
      expect(file.tensors.get('w')?.ggmlType).toBe(format.name)
      expect(Buffer.from(bytesOf(tensor.data)).equals(expected)).toBe(true)
    },
  )

  test('by hand: Q4_1 is scale times nibble plus minimum, low nibbles first', async () => {
    // d = 0.5 and m = -1 in float16, then 16 bytes: low nibble 3 and high nibble 15 everywhere.
    const bytes = concatenated([0x00, 0x38, 0x00, 0xbc], Array(16).fill(0xf3))
    await using file = await openBytes(gguf({}, [{ name: 'w', dims: [32], type: 3, bytes }]))
    expect([...(await file.read('w')).data]).toEqual([...Array(16).fill(0.5), ...Array(16).fill(6.5)])
  })

  test('tensors longer than one piece are seamless', async () => {
    // 5 MiB of Q8_0: 34-byte blocks do not divide the pieces' size.
    const blocks = 160_000
    const bytes = new Uint8Array(blocks * 34)
    for (let block = 0; block < blocks; block++) {
      bytes[block * 34 + 1] = 0x3c
      bytes[block * 34 + 2] = block & 127
    }
    const path = await temporaryFile(
      'big.gguf',
      Buffer.concat([
        gguf({}, [{ name: 'w', dims: [blocks * 32], type: 8, bytes: new Uint8Array(0), offset: 0 }], {}),
        bytes,
      ]),
    )
    await using file = await openGguf(path)
    const { data } = await file.read('w')
    for (let block = 0; block < blocks; block++)
      if (data[block * 32] !== (block & 127)) expect.fail(`block ${block}: ${data[block * 32]}`)
  })
})

describe('a well-formed file', () => {
  test.for([2, 3])('version %i: metadata, names, row-major dims and values', async (version) => {
    const metadata: Record<string, GgufValue> = {
      'general.architecture': 'llama',
      'x.flag': true,
      'x.count': 7,
      'x.float': { float: 0.5 },
      'x.words': ['ab', '', 'ü'],
    }
    await using file = await openBytes(gguf(metadata, [small], { version }))
    expect(Object.fromEntries(file.metadata)).toEqual({
      'general.architecture': 'llama',
      'x.flag': true,
      'x.count': 7,
      'x.float': 0.5,
      'x.words': ['ab', '', 'ü'],
    })
    expect(file.tensors.get('a')).toMatchObject({ ggmlType: 'F32', dims: [2, 3], bytes: 24 })
    expect(await file.read('a')).toEqual({ dtype: 'float32', dims: [2, 3], data: numbers })
  })

  test('every value type, 64-bit integers exact', async () => {
    const raw = (type: number, ...bytes: number[]) => ({ raw: concatenated(uint32(type), bytes) })
    const metadata = {
      u8: raw(0, 255),
      i8: raw(1, 255),
      u16: raw(2, 0xff, 0xff),
      i16: raw(3, 0xfe, 0xff),
      i32: raw(5, 0xfd, 0xff, 0xff, 0xff),
      u64: { raw: concatenated(uint32(10), uint64(2 ** 40)) },
      huge: { raw: concatenated(uint32(10), uint64(2n ** 63n)) },
      i64: { raw: concatenated(uint32(11), uint64(2n ** 64n - 5n)) },
      f64: { raw: concatenated(uint32(12), bytesOf(Float64Array.of(0.1))) },
      nested: {
        raw: concatenated(uint32(9), uint32(9), uint64(2), uint32(0), uint64(2), [1, 2], uint32(7), uint64(1), [1]),
      },
    }
    await using file = await openBytes(gguf(metadata, []))
    expect(Object.fromEntries(file.metadata)).toEqual({
      u8: 255,
      i8: -1,
      u16: 65535,
      i16: -2,
      i32: -3,
      u64: 2 ** 40,
      huge: 2n ** 63n,
      i64: -5,
      f64: 0.1,
      nested: [[1, 2], [true]],
    })
  })

  test('its own alignment is honoured', async () => {
    const metadata = { 'general.alignment': 64 }
    await using file = await openBytes(gguf(metadata, [small, { ...small, name: 'b' }], { alignment: 64 }))
    expect((file.tensors.get('b')?.offset ?? 1) % 64).toBe(0)
    expect((await file.read('b')).data).toEqual(numbers)
  })

  test('a tensor of an unknown type does not hide the others', async () => {
    await using file = await openBytes(gguf({}, [small, { ...small, name: 'odd', type: 99 }]))
    expect((await file.read('a')).data).toEqual(numbers)
    await expectClaraError(file.read('odd'), /"odd".*format that cannot be read.*Q4_K.*type 99/)
    await expectClaraError(file.read('absent'), /no tensor "absent"/)
  })
})

describe('a hostile or damaged file is refused with its reason', () => {
  const cases: readonly (readonly [string, Uint8Array, RegExp])[] = [
    ['another format', utf8('PK\x03\x04 something else'), /not a GGUF file/],
    ['an empty file', new Uint8Array(0), /not a GGUF file/],
    ['an old version', gguf({}, [], { version: 1 }), /version 2 or 3.*version 1/],
    ['big-endian numbers', concatenated(utf8('GGUF'), [0, 0, 0, 3], new Uint8Array(16)), /big-endian/],
    ['a count of tensors beyond the file', gguf({}, [], { tensorCount: 1_000_000 }), /number of tensors is 1000000/],
    [
      'a count beyond exact numbers',
      gguf({}, [], { tensorCount: 2n ** 63n }),
      /number of tensors is 9223372036854775808/,
    ],
    ['a count of keys beyond the file', gguf({}, [], { keyCount: 60_000 }), /number of metadata keys is 60000/],
    [
      'a string beyond the file',
      gguf({ a: { raw: concatenated(uint32(8), uint64(2 ** 31)) } }, []),
      /length of a value of "a" is 2147483648/,
    ],
    [
      'an array beyond the file',
      gguf({ a: { raw: concatenated(uint32(9), uint32(4), uint64(2 ** 30)) } }, []),
      /length of array "a" is 1073741824/,
    ],
    ['an unknown value type', gguf({ a: { raw: uint32(77) } }, []), /"a" has the unknown value type 77/],
    [
      'arrays nested without end',
      gguf(
        {
          a: {
            raw: concatenated(uint32(9), ...Array(20).fill(concatenated(uint32(9), uint64(1))), new Uint8Array(40)),
          },
        },
        [],
      ),
      /nests arrays deeper/,
    ],
    ['five dimensions', gguf({}, [{ ...small, dims: [1, 1, 1, 2, 3] }]), /"a" claims 5 dimensions/],
    [
      'dimensions whose product overflows',
      gguf({}, [{ ...small, dims: [2 ** 31, 2 ** 31] }]),
      /"a" has the impossible shape/,
    ],
    ['a dimension of zero', gguf({}, [{ ...small, dims: [0, 3] }]), /"a" has the impossible shape/],
    [
      'a tensor larger than the file',
      gguf({}, [{ ...small, dims: [1000, 1000] }]),
      /truncated: tensor "a" reaches beyond/,
    ],
    ['an offset beyond the file', gguf({}, [{ ...small, offset: 2 ** 20 }]), /truncated: tensor "a" reaches beyond/],
    ['an offset off the alignment', gguf({}, [{ ...small, offset: 4 }]), /"a" starts at 4, not at a multiple of 32/],
    ['an impossible alignment', gguf({ 'general.alignment': 24 }, [small]), /alignment is 24/],
    ['an alignment of zero', gguf({ 'general.alignment': 0 }, [small]), /alignment is 0/],
    [
      'a row that cuts a block',
      gguf({}, [{ name: 'q', dims: [2, 16], type: 8, bytes: new Uint8Array(34) }]),
      /rows of tensor "q", 16 long, are no multiple of the 32/,
    ],
    ['two tensors of one name', gguf({}, [small, small]), /tensor "a" stands there twice/],
  ]
  test.for(cases)('%s', async ([, bytes, pattern]) => {
    await expectClaraError(openBytes(bytes), pattern)
  })

  test('a missing file and a folder', async () => {
    await expectClaraError(openGguf('/nowhere/model.gguf'), /does not exist/)
    await expectClaraError(openGguf('/'), /not a file.*a folder/)
  })

  test('a file cut at any place is an error for the user, never a crash or a wrong value', async () => {
    const whole = gguf({ 'general.name': 'tiny', words: ['one', 'two'] }, [
      { ...small, bytes: concatenated(bytesOf(numbers), new Uint8Array(8)) },
    ])
    for (let length = 0; length < whole.length - 8; length++) {
      await expectClaraError(openBytes(whole.slice(0, length)), /truncated|damaged|not a GGUF/)
    }
  })

  test('a file cut after it was opened', async () => {
    const path = await temporaryFile('model.gguf', gguf({}, [small]))
    await using file = await openGguf(path)
    await truncate(path, 40)
    await expectClaraError(file.read('a'), /became shorter/)
  })

  test('a file closed before it is read', async () => {
    const file = await openBytes(gguf({}, [small]))
    await file.close()
    await file.close()
    await expectClaraError(file.read('a'), /was closed before it was read/)
  })

  test('any changed byte gives an error for the user or a file that reads', async () => {
    const whole = gguf({ 'general.name': 'tiny', words: ['one', 'two'] }, [small])
    await fc.assert(
      fc.asyncProperty(fc.nat(whole.length - 1), fc.integer({ min: 0, max: 255 }), async (at, byte) => {
        const changed = whole.slice()
        changed[at] = byte
        const outcome = await openBytes(changed)
          .then(
            async (file) => {
              await using open = file
              for (const name of open.tensors.keys()) await open.read(name)
            },
            (error: unknown) => error,
          )
          .catch((error: unknown) => error)
        expect(outcome === undefined || outcome instanceof ClaraError).toBe(true)
      }),
      { numRuns: 300 },
    )
  })
})
