import { createHash } from 'node:crypto'
import { closeSync, fstatSync, openSync } from 'node:fs'
import { bytesOf } from '../codec.ts'
import { readInto } from '../read-into.ts'
import { BLOCK, blocksFor, type PackedRows, signBytes } from './codes.ts'

/*
 * The index of a store's memory as a file, made from the store and of no use without it: what it lacks or has wrong costs recall, never a row. Little-endian:
 * magic (8 bytes), 128 bits of SHA-256 over what follows up to the first signs, u32 width, u32 clusters, u32 rows, u32 loose rows;
 * centre, float32 [width]; rows of each cluster, u32 [clusters]; tokens of each row, u16 [rows]; keys of the rows, float64 [rows]; all filled up to 8 bytes;
 * then, packed as the kernel reads them, signs and factors: of the leaders, a group of {@link LARGEST_CLUSTER} after the other, and of the other rows of
 * each cluster. A cluster's leader is its first row.
 */

const MAGIC = 'CLARALI4'
const HEAD = 8 + 16 + 16
/** Rows of a cluster at most: those of like content beyond them make another. */
export const LARGEST_CLUSTER = 256
/** Bounds for a file that may be damaged. */
const MOST_ROWS = 2 ** 28
const WIDEST = 2 ** 16

/** Rows that lie together. */
export interface ClusterPlace {
  /** Number of its first row, and how many it has. */
  readonly first: number
  readonly rows: number
  readonly tokens: number
  /** Where in the file it begins; factors follow the signs. */
  readonly offset: number
}

/** What is known of a file without its signs. */
export interface LateTable {
  readonly width: number
  readonly centre: Float32Array
  /** Tokens of each row. */
  readonly counts: Uint16Array
  readonly keys: Float64Array
  readonly clusterRows: Uint32Array
  /** Rows that lie in a cluster because there were no more to be had, not because they are like its leader. */
  readonly loose: number
}

export interface LateFile extends LateTable {
  /** Of each cluster the rows below its leader, whose number is one less than that of the first. */
  readonly clusters: readonly ClusterPlace[]
  /** Groups of leaders, in the order of the clusters; `first` is the number of the first cluster. */
  readonly leaders: readonly ClusterPlace[]
  /** Changes when another file takes its place. */
  readonly identity: string
  readonly read: (place: ClusterPlace) => PackedRows
  readonly close: () => void
}

const padded = (bytes: number) => Math.ceil(bytes / 8) * 8

/** What stands before the signs. */
export function encodeTable({ width, centre, counts, keys, clusterRows, loose }: LateTable): Uint8Array {
  const parts = [centre, clusterRows, counts, keys].map(bytesOf)
  const body = new Uint8Array(16 + parts.reduce((sum, part) => sum + padded(part.length), 0))
  new Uint32Array(body.buffer).set([width, clusterRows.length, counts.length, loose])
  let place = 16
  for (const part of parts) {
    body.set(part, place)
    place += padded(part.length)
  }
  return Buffer.concat([Buffer.from(MAGIC), digestOf(body), body])
}

const digestOf = (body: Uint8Array) => createHash('sha256').update(body).digest().subarray(0, 16)

/** Where everything lies behind the table. */
export function placesOf(
  { width, counts, clusterRows }: Pick<LateTable, 'width' | 'counts' | 'clusterRows'>,
  start: number,
): { readonly leaders: ClusterPlace[]; readonly clusters: ClusterPlace[]; readonly end: number } {
  let end = start
  const place = (first: number, rows: number, tokens: number): ClusterPlace => {
    const found = { first, rows, tokens, offset: end }
    end += packedBytes(tokens, width)
    return found
  }
  const firsts: number[] = []
  let row = 0
  for (const rows of clusterRows) {
    firsts.push(row)
    row += rows
  }
  const leaders: ClusterPlace[] = []
  for (let first = 0; first < firsts.length; first += LARGEST_CLUSTER) {
    const group = firsts.slice(first, first + LARGEST_CLUSTER)
    leaders.push(
      place(
        first,
        group.length,
        group.reduce((sum, leader) => sum + (counts[leader] ?? 0), 0),
      ),
    )
  }
  const clusters = firsts.map((first, index) => {
    const rows = clusterRows[index] ?? 0
    let tokens = 0
    for (let one = first + 1; one < first + rows; one++) tokens += counts[one] ?? 0
    return place(first + 1, rows - 1, tokens)
  })
  return { leaders, clusters, end }
}

const packedBytes = (tokens: number, width: number) => blocksFor(tokens) * BLOCK * (signBytes(width) + 2)

/** Opens an index; undefined when there is none for memory of this width, or it is damaged: then it is made anew. */
export function openLateFile(path: string, width: number): LateFile | undefined {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch {
    return undefined
  }
  try {
    const opened = readTable(file, width)
    if (opened !== undefined) return opened
  } catch {
    // cut off, or the disk does not give it
  }
  closeSync(file)
  return undefined
}

function readTable(file: number, width: number): LateFile | undefined {
  const { size, ino, mtimeMs } = fstatSync(file)
  const head = readAt(file, 0, HEAD)
  const [stored, clusterCount, rows, loose = 0] = new Uint32Array(head.slice(24).buffer)
  if (Buffer.from(head.subarray(0, 8)).toString('latin1') !== MAGIC || stored !== width || width > WIDEST) return
  if (clusterCount === undefined || rows === undefined || rows > MOST_ROWS || clusterCount > rows || loose > rows)
    return
  const lengths = [4 * width, 4 * clusterCount, 2 * rows, 8 * rows]
  const bodyBytes = lengths.reduce((sum, length) => sum + padded(length), 16)
  if (24 + bodyBytes > size) return
  const body = readAt(file, 24, bodyBytes)
  if (!digestOf(body).equals(head.subarray(8, 24))) return
  let place = 16
  const [centre, clusterRows, counts, keys] = lengths.map((length) => {
    const part = body.slice(place, place + length).buffer
    place += padded(length)
    return part
  })
  if (!centre || !clusterRows || !counts || !keys) return
  const table: LateTable = {
    width,
    centre: new Float32Array(centre),
    clusterRows: new Uint32Array(clusterRows),
    counts: new Uint16Array(counts),
    keys: new Float64Array(keys),
    loose,
  }
  if (table.clusterRows.reduce((sum, count) => sum + count, 0) !== rows) return
  const { leaders, clusters, end } = placesOf(table, 24 + bodyBytes)
  if (end !== size) return
  return {
    ...table,
    leaders,
    clusters,
    identity: identityOf({ ino, mtimeMs, size }),
    read({ tokens, offset }) {
      const packed = readAt(file, offset, packedBytes(tokens, width))
      const signs = blocksFor(tokens) * BLOCK * signBytes(width)
      return { signs: packed.subarray(0, signs), factors: new Uint16Array(packed.slice(signs).buffer) }
    },
    close: () => closeSync(file),
  }
}

export const identityOf = (file: { readonly ino: number; readonly mtimeMs: number; readonly size: number }) =>
  `${file.ino} ${file.mtimeMs} ${file.size}`

function readAt(file: number, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length)
  readInto(bytes, file, offset)
  return bytes
}
