import { createHash } from 'node:crypto'
import { type FileHandle, lstat, open } from 'node:fs/promises'

/** The hash under which the hub knows a content, and under which the cache keeps it. */
export interface ContentHash {
  /** Large files have the SHA-256 of their bytes, small ones the SHA-1 that git gives a blob. */
  readonly algorithm: 'sha256' | 'git-sha1'
  /** Lower case, 64 or 40 characters. */
  readonly hex: string
}

export interface Digest {
  update(bytes: Uint8Array): void
  /** The hash of all bytes so far, in hexadecimal; ends the digest. */
  hex(): string
}

/** @param size Bytes of the whole file, which git hashes before them. */
export function createDigest(algorithm: ContentHash['algorithm'], size: number): Digest {
  const hash = createHash(algorithm === 'sha256' ? 'sha256' : 'sha1')
  if (algorithm === 'git-sha1') hash.update(`blob ${size}\0`)
  return { update: (bytes) => void hash.update(bytes), hex: () => hash.digest('hex') }
}

const pieceBytes = 1 << 20

/** The bytes of an open file from its start, in pieces that are valid until the next one. */
export async function* piecesOf(handle: FileHandle, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(pieceBytes)
  for (let position = 0; ; ) {
    signal?.throwIfAborted()
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, position)
    if (bytesRead === 0) return
    yield buffer.subarray(0, bytesRead)
    position += bytesRead
  }
}

/**
 * Whether a file of the cache is the whole content that its hash names. A link or a folder in its place is not.
 *
 * @param onBytes Called with the bytes read so far.
 */
export async function isWhole(
  path: string,
  size: number,
  hash: ContentHash,
  signal: AbortSignal | undefined,
  onBytes: (done: number) => void,
): Promise<boolean> {
  const facts = await lstat(path).catch(() => undefined)
  if (!facts?.isFile() || facts.size !== size) return false
  const digest = createDigest(hash.algorithm, size)
  const handle = await open(path, 'r')
  try {
    let done = 0
    for await (const piece of piecesOf(handle, signal)) {
      digest.update(piece)
      done += piece.length
      onBytes(done)
    }
  } finally {
    await handle.close()
  }
  return digest.hex() === hash.hex
}
