import { readFile, stat } from 'node:fs/promises'
import { ClaraError } from '../errors.ts'

/** Text files beyond this are refused: some minutes of compressing, and far more than a person writes. */
const LARGEST_BYTES = 16 * 1024 * 1024

/**
 * Reads a UTF-8 text file; a byte-order mark is dropped.
 * @throws ClaraError when the file is missing, no regular file, empty, larger than 16 MiB, or not text.
 */
export async function readTextFile(path: string): Promise<string> {
  const bytes = await readBytes(path)
  // text never contains NUL; images, archives and UTF-16 nearly always do
  if (bytes.includes(0)) throw notText(path)
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw notText(path)
  }
  if (text.trim() === '') throw new ClaraError(`"${path}" is empty.`, { hint: 'Leave it out.' })
  return text
}

async function readBytes(path: string): Promise<Uint8Array> {
  try {
    // asked before opening: opening a pipe would wait for its writer
    const facts = await stat(path)
    if (!facts.isFile()) {
      throw new ClaraError(`"${path}" is not a file.`, {
        expected: 'a text file',
        received: facts.isDirectory() ? 'a folder' : 'something else',
      })
    }
    if (facts.size > LARGEST_BYTES) {
      throw new ClaraError(`"${path}" is too large.`, {
        expected: `at most ${LARGEST_BYTES / 1024 / 1024} MiB`,
        received: `${(facts.size / 1024 / 1024).toFixed(1)} MiB`,
        hint: 'Split it into several files.',
      })
    }
    return await readFile(path)
  } catch (cause) {
    if (cause instanceof ClaraError) throw cause
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause)
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new ClaraError(`"${path}" does not exist.`, { hint: 'Check the path.', cause })
    throw new ClaraError(`"${path}" cannot be read.`, { received: code, cause })
  }
}

function notText(path: string): ClaraError {
  return new ClaraError(`"${path}" is not a text file.`, {
    expected: 'UTF-8 text',
    hint: 'Save it as plain text in UTF-8; PDF, Word and pictures are not read.',
  })
}
