import { basename, dirname } from 'node:path'
import { ClaraError } from '../errors.ts'
import type { DType, FileTensor, HostTensor } from '../graph/dtype.ts'
import { type EncodedModel, placeWeights, type WeightPlace } from '../graph/onnx.ts'
import { showShape } from '../graph/shape.ts'

/** Weights by name: all in memory, or all in files that the session maps instead of reading them. */
export type Weights = ReadonlyMap<string, HostTensor | FileTensor>

/** A model together with what its session needs beside it. */
export interface SuppliedModel {
  readonly bytes: Uint8Array
  readonly inMemory: readonly { readonly path: string; readonly data: Uint8Array }[]
  /** Where the files lie; undefined where all weights are in memory. */
  readonly folder: string | undefined
}

/**
 * Gathers the weights that a model names.
 * @throws ClaraError when one is missing or has another type or shape.
 */
export function supplyWeights(model: EncodedModel, weights: Weights): SuppliedModel {
  const inMemory: { path: string; data: Uint8Array }[] = []
  const places = new Map<string, WeightPlace>()
  let folder: string | undefined
  for (const { name, dtype, dims } of model.weights) {
    const weight = requireWeight(model, name, dtype, dims, weights)
    if ('data' in weight) {
      const { buffer, byteOffset, byteLength } = weight.data
      inMemory.push({ path: name, data: new Uint8Array(buffer, byteOffset, byteLength) })
      continue
    }
    const { file, offset } = weight
    folder ??= dirname(file)
    if (dirname(file) !== folder) throw new RangeError(`The weights of graph '${model.name}' lie in two folders.`)
    places.set(name, { file: basename(file), offset })
  }
  // ONNX Runtime looks into no file once it was handed weights in memory
  if (places.size > 0 && inMemory.length > 0) {
    throw new RangeError(`Of the weights of graph '${model.name}' some lie in memory and some in files.`)
  }
  return { bytes: places.size > 0 ? placeWeights(model, places) : model.bytes, inMemory, folder }
}

function requireWeight(
  model: EncodedModel,
  name: string,
  dtype: DType,
  dims: readonly number[],
  weights: Weights,
): HostTensor | FileTensor {
  const weight = weights.get(name)
  if (!weight) throw new ClaraError(`Graph '${model.name}' needs the weight '${name}', which was not given.`)
  if (weight.dtype !== dtype || weight.dims.join() !== dims.join()) {
    throw new ClaraError(`Weight '${name}' does not fit graph '${model.name}'.`, {
      expected: `${dtype}${showShape(dims)}`,
      received: `${weight.dtype}${showShape(weight.dims)}`,
    })
  }
  return weight
}
