/** Element types that graphs and checkpoints speak of, by their ONNX names. */
export type DType = 'float32' | 'float16' | 'int64' | 'int32' | 'int8' | 'uint8' | 'bool'

/** How each element type lies in host memory. float16 travels as its raw 16 bits; bool as one byte. */
export interface ArrayOf {
  float32: Float32Array
  float16: Uint16Array
  int64: BigInt64Array
  int32: Int32Array
  int8: Int8Array
  uint8: Uint8Array
  bool: Uint8Array
}

export type TypedArray = ArrayOf[DType]

/** A tensor with its values, in row-major order. */
export interface HostTensor {
  readonly dtype: DType
  readonly dims: readonly number[]
  readonly data: TypedArray
}

/** A tensor whose values lie in a file, little-endian and in row-major order. */
export interface FileTensor {
  readonly dtype: DType
  readonly dims: readonly number[]
  readonly file: string
  /** Of the first byte. */
  readonly offset: number
}

/** Bytes of one element. */
export const bytesPerElement: Readonly<Record<DType, number>> = {
  float32: 4,
  float16: 2,
  int64: 8,
  int32: 4,
  int8: 1,
  uint8: 1,
  bool: 1,
}

/** Number of elements of a shape; 1 for a scalar. */
export function elementCount(dims: readonly number[]): number {
  return dims.reduce((product, dim) => product * dim, 1)
}

/** A float32 host tensor. */
export function float32(data: Float32Array | readonly number[], dims: readonly number[]): HostTensor {
  return { dtype: 'float32', dims, data: data instanceof Float32Array ? data : Float32Array.from(data) }
}

/** An int64 host tensor from ordinary integers. */
export function int64(values: Iterable<number>, dims: readonly number[]): HostTensor {
  return { dtype: 'int64', dims, data: BigInt64Array.from(values, (value) => BigInt(value)) }
}
