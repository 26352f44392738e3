import { deflateRawSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { readPth } from '../../src/checkpoint/pth.ts'
import { ClaraError } from '../../src/errors.ts'
import { dictionary, pickle, pth, storage, tensor, zip } from './pickle-bytes.ts'
import { bytesOf, expectClaraError, temporaryFile, utf8 } from './support.ts'

const readBytes = async (bytes: Uint8Array) => readPth(await temporaryFile('model.pth', bytes))
const six = bytesOf(Float32Array.of(0, 1, 2, 3, 4, 5))

describe('the archive', () => {
  const whole = pth(dictionary({ w: tensor(storage('Float', '0', 6), 0, [6], [1]) }), { 0: six })

  test('cut anywhere, it is an error for the user', async () => {
    for (let length = 0; length < whole.length; length += 7) {
      await expectClaraError(readBytes(whole.slice(0, length)), /not a zip file, or its end is missing/)
    }
  })

  test('any changed byte gives a value or an error for the user', async () => {
    for (const base of [
      whole,
      pth(dictionary({ w: tensor(storage('Float', '0', 6), 0, [6], [1]) }), { 0: six }, true),
    ]) {
      await fc.assert(
        fc.asyncProperty(fc.nat(base.length - 1), fc.integer({ min: 0, max: 255 }), async (at, byte) => {
          const bytes = base.slice()
          bytes[at] = byte
          const outcome = await readBytes(bytes).catch((error: unknown) => error)
          expect(outcome instanceof ClaraError || !(outcome instanceof Error)).toBe(true)
        }),
        { numRuns: 300 },
      )
    }
  })

  test('a pickle may be deflated, within its promised size', async () => {
    const bytes = pickle(dictionary({ epoch: 1 }))
    const packed = { name: 'a/data.pkl', bytes: deflateRawSync(bytes), method: 8 }
    expect(await readBytes(zip([{ ...packed, size: bytes.length }]))).toEqual({})
    await expectClaraError(readBytes(zip([{ ...packed, size: 3 }])), /unpack/)
    await expectClaraError(readBytes(zip([{ ...packed, size: 2 ** 31 }])), /"a\/data.pkl".*too large/)
    await expectClaraError(readBytes(zip([{ ...packed, method: 12, size: bytes.length }])), /unknown method 12/)
  })

  test.for([
    [
      'a storage that is compressed',
      [
        { name: 'a/data.pkl', bytes: pickle(dictionary({ w: tensor(storage('Float', '0', 6), 0, [6], [1]) })) },
        { name: 'a/data/0', bytes: deflateRawSync(six), method: 8, size: 24 },
      ],
      /"a\/data\/0".*is compressed/,
    ],
    ['no pickle', [{ name: 'a/b/data.pkl', bytes: pickle(null) }], /no PyTorch checkpoint/],
    [
      'two entries of one name',
      [
        { name: 'x', bytes: six },
        { name: 'x', bytes: six },
      ],
      /entry "x" stands there twice/,
    ],
    ['an encrypted entry', [{ name: 'x', bytes: six, flags: 1 }], /entry "x" is encrypted/],
    [
      'a big-endian machine',
      [
        { name: 'a/data.pkl', bytes: pickle(null) },
        { name: 'a/byteorder', bytes: utf8('big') },
      ],
      /big-endian/,
    ],
  ] as const)('refuses %s', async ([, parts, pattern]) => {
    await expectClaraError(readBytes(zip(parts)), pattern)
  })

  test('another format is named', async () => {
    await expectClaraError(readBytes(pickle(null)), /not a zip file.*torch\.save/)
  })
})
