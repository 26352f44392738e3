import { readSync } from 'node:fs'

/**
 * Fills bytes from an open file.
 * @throws RangeError when the file ends before.
 */
export function readInto(bytes: Uint8Array, file: number, offset: number): void {
  for (let read = 0; read < bytes.length; ) {
    const some = readSync(file, bytes, read, bytes.length - read, offset + read)
    if (some === 0) throw new RangeError('The file ends too early.')
    read += some
  }
}
