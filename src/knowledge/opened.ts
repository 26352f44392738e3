import { QUERY_PROJECTION } from '../clara/compressor.ts'
import { memoryLength } from '../clara/config.ts'
import type { Memory } from '../clara/encoder.ts'
import { halveMemory, quantiseMemory } from '../store/quantise.ts'
import type { Store, StoreDescription, StoreRow } from '../store/store.ts'
import { checkSameStore } from '../store/validation.ts'
import type { Passage } from './chunks.ts'
import type { KnowledgeModel } from './model.ts'
import {
  isDatabase,
  type MemoryKind,
  openStore,
  type Place,
  placeName,
  type StoreSettings,
  settingsOf,
} from './place.ts'
import { createQuestionVectors, createVectors, type MemoryShape, vectorSettings, vectorWidth } from './vectors.ts'

/** A store as a model uses it. */
export interface Opened {
  readonly store: Store
  readonly settings: StoreSettings
  /** The retrieval vector of a question's memory. */
  readonly vectorOf: (memory: Memory) => Float32Array
  readonly row: (passage: Passage, memory: Memory) => StoreRow
}

/** @throws ClaraError when another model wrote the store, or no knowledge base did. */
export function adopt(store: Store, place: Place, model: KnowledgeModel['model']): Opened {
  const { description } = store
  const shape = shapeOf(model)
  const found = { fingerprint: model.fingerprint, memoryWidth: shape.hidden }
  // kept without vectors, or with those of the model's width
  const width = description.vectorWidth === 0 ? 0 : vectorWidth(shape)
  checkSameStore(`The store ${JSON.stringify(placeName(place))}`, description, { ...found, vectorWidth: width })
  const settings = settingsOf(store, place)
  const vectorOf = createVectors(shape, settings.vectors)
  const projected = model.parameters?.has(QUERY_PROJECTION) ?? false
  return {
    store,
    settings,
    vectorOf: createQuestionVectors(shape, settings.vectors, projected),
    row(passage, memory) {
      const [n, width] = memory.shape
      const tokens = { dtype: 'float32', tokens: memory.tokens, n, width } as const
      const kept = { int8: quantiseMemory, float16: halveMemory, float32: () => tokens }[settings.memory]
      const vector = description.vectorWidth === 0 ? new Float32Array() : vectorOf(memory)
      return { ...passage, memory: kept(tokens), vector }
    },
  }
}

/**
 * Makes the store of a knowledge base.
 * @param first The memories that fix how retrieval vectors are made.
 */
export async function createStore(
  place: Place,
  model: KnowledgeModel['model'],
  memory: MemoryKind,
  first: readonly Memory[],
): Promise<Opened> {
  const shape = shapeOf(model)
  const settings: StoreSettings = {
    format: 'clara-ts knowledge base',
    version: 1,
    memory,
    vectors: vectorSettings(shape, first),
  }
  const description: StoreDescription = {
    fingerprint: model.fingerprint,
    memoryWidth: shape.hidden,
    vectorWidth: findsByMemory(place, shape) ? 0 : vectorWidth(shape),
    details: settings,
  }
  const store = await openStore(place, description)
  if (store === undefined) throw new RangeError('A store with a description was not made.')
  // another process may have made it a moment before: what it fixed holds
  return adopt(store, place, model)
}

/** Whether a store there needs no retrieval vectors: it finds by late interaction, and that is the model's score. */
const findsByMemory = (place: Place, { similarity }: MemoryShape) =>
  similarity === 'maxsim' && (place === undefined || !isDatabase(place))

function shapeOf({ config, base }: KnowledgeModel['model']): MemoryShape {
  return {
    similarity: config.compressor.similarity,
    hidden: base.config.hidden_size,
    tokens: memoryLength(config),
  }
}
