import { bytesPerElement, type FileTensor, type HostTensor } from '../graph/dtype.ts'
import { openPositioned } from './file.ts'
import { widenFloat16 } from './half.ts'

/**
 * Rows of a table [rows, width] of float32 or float16 numbers, in memory or in a file, below each other as float32.
 * Of a file only these rows are read.
 */
export async function gatherRows(table: HostTensor | FileTensor, indices: readonly number[]): Promise<Float32Array> {
  const width = table.dims[1] ?? 0
  const gathered = new Float32Array(indices.length * width)
  if ('data' in table) {
    indices.forEach((index, place) => {
      const row = table.data.subarray(index * width, (index + 1) * width)
      if (row instanceof Uint16Array) widenFloat16(row, gathered.subarray(place * width, (place + 1) * width))
      else gathered.set(row as Float32Array, place * width)
    })
    return gathered
  }
  const bytes = width * bytesPerElement[table.dtype]
  const file = await openPositioned(table.file)
  try {
    const row = new Uint8Array(bytes)
    for (const [place, index] of indices.entries()) {
      await file.readInto(row, table.offset + index * bytes)
      const target = gathered.subarray(place * width, (place + 1) * width)
      if (table.dtype === 'float16') widenFloat16(new Uint16Array(row.buffer), target)
      else target.set(new Float32Array(row.buffer))
    }
  } finally {
    await file.close()
  }
  return gathered
}

/** A tensor's values, read where they lie in a file. */
export async function readStored(tensor: HostTensor | FileTensor): Promise<HostTensor> {
  if ('data' in tensor) return tensor
  const { dims } = tensor
  const width = dims.at(-1) ?? 1
  const rows = dims.slice(0, -1).reduce((product, dim) => product * dim, 1)
  const data = await gatherRows(
    { ...tensor, dims: [rows, width] },
    Array.from({ length: rows }, (_, row) => row),
  )
  return { dtype: 'float32', dims, data }
}
