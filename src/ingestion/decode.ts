/** Bytes to text. What is not UTF-8 and does not say what it is, is refused: a guess would store nonsense. */
import { isUtf8 } from 'node:buffer'
import { TextDecoder } from 'node:util'
import { ClaraError } from '../errors.ts'

/**
 * The text of a file: UTF-8, or UTF-16 with a byte-order mark, or in the declared encoding. The mark is dropped.
 * @param declared An encoding that the file's sender or its markup names; a byte-order mark counts more.
 * @throws ClaraError when it is not text in that encoding.
 */
export function decodeText(bytes: Uint8Array, name: string, declared?: string): string {
  const encoding = encodingOf(bytes, name) ?? declared ?? 'utf-8'
  const decoder = decoderOf(encoding, name)
  let text: string
  try {
    text = decoder.decode(bytes)
  } catch {
    throw notText(name, bytes, decoder.encoding)
  }
  if (text.includes('\0')) throw nulCharacter(name, bytes)
  return text
}

/**
 * The same for a stream, piece by piece, without ever holding more than a piece.
 * @throws ClaraError as {@link decodeText}.
 */
export async function* decodeStream(
  pieces: AsyncIterable<Uint8Array>,
  name: string,
): AsyncGenerator<string, void, undefined> {
  let decoder: TextDecoder | undefined
  let head: Uint8Array = new Uint8Array(0)
  for await (const piece of pieces) {
    let bytes = piece
    if (decoder === undefined) {
      // a byte-order mark may be cut by the pieces
      head = bytes = Buffer.concat([head, piece])
      if (head.length < 4) continue
      decoder = decoderOf(encodingOf(head, name) ?? 'utf-8', name)
    }
    yield decodePiece(decoder, bytes, name, true)
  }
  decoder ??= decoderOf(encodingOf(head, name) ?? 'utf-8', name)
  yield decodePiece(decoder, head.length < 4 ? head : new Uint8Array(0), name, false)
}

function decodePiece(decoder: TextDecoder, bytes: Uint8Array, name: string, stream: boolean): string {
  let text: string
  try {
    text = decoder.decode(bytes, { stream })
  } catch {
    throw notText(name, undefined, decoder.encoding)
  }
  if (text.includes('\0')) throw nulCharacter(name, bytes)
  return text
}

/** What a byte-order mark says. */
function encodingOf(bytes: Uint8Array, name: string): string | undefined {
  const [a, b, c, d] = bytes
  if (a === 0xef && b === 0xbb && c === 0xbf) return 'utf-8'
  if ((a === 0xff && b === 0xfe && c === 0 && d === 0) || (a === 0 && b === 0 && c === 0xfe && d === 0xff)) {
    throw new ClaraError(`${name} is UTF-32 text, which is not read.`, { hint: 'Save it as UTF-8.' })
  }
  if (a === 0xff && b === 0xfe) return 'utf-16le'
  if (a === 0xfe && b === 0xff) return 'utf-16be'
  return undefined
}

function decoderOf(encoding: string, name: string): TextDecoder {
  try {
    return new TextDecoder(encoding, { fatal: true })
  } catch (cause) {
    throw new ClaraError(`${name} says that it is written in an unknown encoding.`, {
      received: JSON.stringify(encoding.slice(0, 40)),
      hint: 'Save it as UTF-8.',
      cause,
    })
  }
}

/** Whether these first bytes of a file look like text in an encoding that is read. */
export function looksLikeText(head: Uint8Array): boolean {
  if ((head[0] === 0xff && head[1] === 0xfe) || (head[0] === 0xfe && head[1] === 0xff)) return true
  if (head.includes(0)) return false
  // the last character may be cut
  return [0, 1, 2, 3].some((cut) => isUtf8(head.subarray(0, Math.max(0, head.length - cut))))
}

function nulCharacter(name: string, bytes: Uint8Array): ClaraError {
  // UTF-16 without a mark: every other byte of Western text is zero
  const zeros = bytes.subarray(0, 4096).filter((byte) => byte === 0).length
  const isWide = zeros > Math.min(bytes.length, 4096) / 4
  return new ClaraError(`${name} is not text: it has a NUL character.`, {
    expected: 'UTF-8 text',
    ...(isWide ? { received: 'what may be UTF-16 without a byte-order mark', hint: 'Save it as UTF-8.' } : {}),
  })
}

function notText(name: string, bytes: Uint8Array | undefined, encoding: string): ClaraError {
  const isDefault = encoding === 'utf-8'
  const place = bytes !== undefined && isDefault ? firstInvalid(bytes) : undefined
  return new ClaraError(`${name} is not ${isDefault ? 'UTF-8' : encoding} text.`, {
    ...(place === undefined || bytes === undefined
      ? {}
      : { received: `the byte 0x${(bytes[place] ?? 0).toString(16).padStart(2, '0')} at ${place}` }),
    hint: 'It may be in an older encoding, such as Windows-1252 or Shift JIS: save it as UTF-8.',
  })
}

/** Offset of the first byte that belongs to no UTF-8 character, found by halving. */
function firstInvalid(bytes: Uint8Array): number {
  let [low, high] = [0, bytes.length]
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if (startsWell(bytes, middle)) low = middle
    else high = middle - 1
  }
  // back to where the character begins that goes wrong there
  while (low > 0 && !isUtf8(bytes.subarray(0, low))) low--
  return low
}

/** Whether the first `length` bytes can begin a UTF-8 text. */
function startsWell(bytes: Uint8Array, length: number): boolean {
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(0, length), { stream: true })
    return true
  } catch {
    return false
  }
}
