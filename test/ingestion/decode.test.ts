import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeStream, decodeText, looksLikeText } from '../../src/ingestion/decode.ts'
import { collect } from './support.ts'

const utf16 = (text: string, bigEndian: boolean) => {
  const bytes = Buffer.from(`\ufeff${text}`, 'utf16le')
  return bigEndian ? bytes.swap16() : bytes
}
/** Text without NUL, which is refused, and without a mark or half a pair, which no encoding carries. */
const text = fc.string({ unit: 'grapheme' }).map((value) => value.replace(/\0|\ufeff/g, ''))

test('UTF-8 and UTF-16 with a mark give the text back', () => {
  fc.assert(
    fc.property(text, (value) => {
      expect(decodeText(Buffer.from(value), 'it')).toBe(value)
      expect(decodeText(Buffer.from(`\ufeff${value}`), 'it')).toBe(value)
      expect(decodeText(utf16(value, false), 'it')).toBe(value)
      expect(decodeText(utf16(value, true), 'it')).toBe(value)
    }),
  )
})

test('a stream gives the same text, however its bytes are cut', async () => {
  const encoded = fc.oneof(
    text.map((value) => [value, Buffer.from(value)] as const),
    text.map((value) => [value, Buffer.from(`\ufeff${value}`)] as const),
    fc.tuple(text, fc.boolean()).map(([value, bigEndian]) => [value, utf16(value, bigEndian)] as const),
  )
  await fc.assert(
    fc.asyncProperty(encoded, fc.array(fc.integer({ min: 1, max: 5 })), async ([value, bytes], lengths) => {
      async function* pieces() {
        let at = 0
        for (const length of lengths) {
          yield bytes.subarray(at, at + length)
          at += length
        }
        yield bytes.subarray(at)
      }
      expect((await collect(decodeStream(pieces(), 'it'))).join('')).toBe(value)
    }),
  )
})

describe('what is not text says so', () => {
  test.each<[string, Uint8Array, RegExp]>([
    ['Latin-1', Buffer.from('Bl\xe5b\xe6r', 'latin1'), /it is not UTF-8 text\. Got the byte 0xe5 at 2\./],
    ['a cut character', Buffer.from('ab€').subarray(0, 4), /not UTF-8 text\. Got the byte 0xe2 at 2\./],
    ['NUL', Buffer.from('ab\0c and more text that has none'), /it has a NUL character/],
    ['UTF-16 without a mark', Buffer.from('some text', 'utf16le'), /NUL character.*UTF-16 without a byte-order mark/],
    ['UTF-32', Uint8Array.of(0xff, 0xfe, 0, 0, 0x41, 0, 0, 0), /UTF-32/],
    ['half of UTF-16', Uint8Array.of(0xff, 0xfe, 0x41), /not utf-16le text/],
  ])('%s', async (_, bytes, message) => {
    expect(() => decodeText(bytes, 'it')).toThrow(message)
    async function* pieces() {
      for (const byte of bytes) yield Uint8Array.of(byte)
    }
    await expect(collect(decodeStream(pieces(), 'it'))).rejects.toThrow(/it (?:is not|is UTF-32)/)
  })

  test('a declared encoding is taken at its word, and no further', () => {
    expect(decodeText(Buffer.from('Bl\xe5', 'latin1'), 'it', 'windows-1252')).toBe('Blå')
    expect(decodeText(Uint8Array.of(0x93, 0xfa, 0x96, 0x7b), 'it', 'shift_jis')).toBe('日本')
    expect(() => decodeText(Uint8Array.of(0x41), 'it', 'klingon')).toThrow(/unknown encoding.*"klingon"/)
  })
})

test('binary is told from text by its beginning', () => {
  expect(looksLikeText(Buffer.from('Blåbær'))).toBe(true)
  expect(looksLikeText(Buffer.from('ab€').subarray(0, 4))).toBe(true)
  expect(looksLikeText(utf16('text', true))).toBe(true)
  expect(looksLikeText(Buffer.alloc(0))).toBe(true)
  expect(looksLikeText(Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0))).toBe(false)
  expect(looksLikeText(Uint8Array.of(0x80, 0x81, 0x82, 0x83, 0x84, 0x85))).toBe(false)
})
