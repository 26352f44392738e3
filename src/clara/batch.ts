import { float32, type HostTensor, int64 } from '../graph/dtype.ts'
import type { DecoderConfig } from '../model/config.ts'
import type { CompressorConfig } from './config.ts'
import { type WindowOptions, windows } from './windows.ts'

/** Added to the score of a pair of positions that may not see each other. */
const HIDDEN = -1e9

/** A document as the compressor reads it: `<ENC><bos>text<eos>`, then memory tokens where memory is 'tokens'. */
export interface EncodedDocument {
  readonly ids: readonly number[]
  /** Where the text's own tokens lie in `ids`: [start, end). */
  readonly text: readonly [start: number, end: number]
  /** Memory tokens at the end of `ids` (memory 'tokens'), else 0. */
  readonly memoryTokens: number
}

export type Feeds = Record<string, HostTensor>

/** The compressor's inputs for some documents, and how many memory tokens each of them gets. */
export interface CompressorBatch {
  readonly feeds: Feeds
  readonly memoryCounts: readonly number[]
}

export interface PoolingOptions extends WindowOptions {
  readonly config: CompressorConfig
  /** Positions that the documents count as, which end with the last (see {@link fixedWidth}). Default: those of the longest. */
  readonly width?: number | undefined
}

/**
 * Positions that every document counts as where rotations depend on the length of a whole batch ('longrope', with documents
 * that may pass its first length): a document of full length, as the published code pads them, so that a memory does not
 * hang on the documents beside it. Undefined where there is no such dependence.
 */
export function fixedWidth(
  { rope_scaling: scaling }: DecoderConfig,
  docMaxLength: number,
  memoryTokens: number,
): number | undefined {
  const width = docMaxLength + 3 + memoryTokens
  return scaling?.rope_type === 'longrope' && width > scaling.original_max_position_embeddings ? width : undefined
}

/** Pads documents on the left to one length and lists where their memory comes from. */
export function compressorBatch(
  documents: readonly EncodedDocument[],
  padId: number,
  options: PoolingOptions,
): CompressorBatch {
  const length = Math.max(...documents.map(({ ids }) => ids.length))
  const count = documents.length
  const ids = new Array<number>(count * length).fill(padId)
  const bias = new Float32Array(count * length * length).fill(HIDDEN)
  const bidirectional = options.config.attention === 'bidirectional'
  documents.forEach((document, row) => {
    const start = length - document.ids.length
    document.ids.forEach((id, index) => {
      ids[row * length + start + index] = id
    })
    for (let query = start; query < length; query++) {
      const line = (row * length + query) * length
      bias.fill(0, line + start, line + (bidirectional ? length : query + 1))
    }
  })
  const first = Math.max(0, (options.width ?? 0) - length)
  const positions = Array.from({ length: count * length }, (_, index) => first + (index % length))
  const feeds: Feeds = {
    ids: int64(ids, [count, length]),
    positions: int64(positions, [count, length]),
    bias: float32(bias, [count, 1, 1, length, length]),
  }
  const starts = documents.map((document, row) => row * length + length - document.ids.length)
  const pooled =
    options.config.memory === 'tokens'
      ? memoryTokenFeeds(documents, length, starts)
      : windowFeeds(documents, starts, options)
  return { feeds: { ...feeds, ...pooled.feeds }, memoryCounts: pooled.memoryCounts }
}

function memoryTokenFeeds(
  documents: readonly EncodedDocument[],
  length: number,
  starts: readonly number[],
): CompressorBatch {
  const count = documents.length
  const slot = new Array<number>(count * length).fill(0)
  const isSlot = new Uint8Array(count * length)
  const memoryMean = new Float32Array(count * length)
  const textMean = new Float32Array(count * length)
  const memoryPositions: number[] = []
  documents.forEach((document, row) => {
    const first = starts[row] ?? 0
    const others = document.ids.length - document.memoryTokens
    textMean.fill(1 / others, first, first + others)
    for (let index = 0; index < document.memoryTokens; index++) {
      const place = first + others + index
      // rows count from the first memory token, which a repeated one is at every place
      slot[place] = (document.ids[others + index] ?? 0) - (document.ids[others] ?? 0)
      isSlot[place] = 1
      memoryMean[place] = 1 / document.memoryTokens
      memoryPositions.push(place)
    }
  })
  return {
    memoryCounts: documents.map(({ memoryTokens }) => memoryTokens),
    feeds: {
      slot: int64(slot, [count, length]),
      isSlot: { dtype: 'bool', dims: [count, length, 1], data: isSlot },
      memoryPositions: int64(memoryPositions, [memoryPositions.length]),
      memoryMean: float32(memoryMean, [count, 1, length]),
      textMean: float32(textMean, [count, 1, length]),
    },
  }
}

function windowFeeds(
  documents: readonly EncodedDocument[],
  starts: readonly number[],
  options: PoolingOptions,
): CompressorBatch {
  const all: { places: number[]; ids: number[] }[] = []
  const memoryCounts = documents.map((document, row) => {
    const [from, to] = document.text
    const first = (starts[row] ?? 0) + from
    // an empty document still gets memory: that of its <ENC><bos><eos>
    const length = Math.max(1, to - from)
    const list = windows(document.ids.slice(from, from + length), options)
    for (const [start, end] of list) {
      const offsets = Array.from({ length: end - start }, (_, index) => start + index)
      all.push({
        places: offsets.map((offset) => first + offset),
        ids: offsets.map((offset) => document.ids[from + offset] ?? 0),
      })
    }
    return list.length
  })
  const width = Math.max(...all.map(({ places }) => places.length))
  const places = new Array<number>(all.length * width).fill(0)
  const bias = new Float32Array(all.length * width).fill(HIDDEN)
  const idf = new Float32Array(all.length * width)
  all.forEach((window, row) => {
    window.places.forEach((place, index) => {
      places[row * width + index] = place
      bias[row * width + index] = 0
      idf[row * width + index] = options.idf?.[window.ids[index] ?? 0] ?? 0
    })
  })
  const dims = [all.length, width]
  const feeds: Feeds = { window: int64(places, dims), windowBias: float32(bias, dims) }
  if (options.config.memory === 'salient') feeds['idf'] = float32(idf, dims)
  return { feeds, memoryCounts }
}

/**
 * One row of the generator: a prompt with its answer, or several that share their beginning. Positions of segment 0 (the
 * shared beginning) are seen by all later ones; those of another segment only by that segment.
 */
export interface GeneratorRow {
  readonly ids: readonly number[]
  readonly positions: readonly number[]
  readonly segments: readonly number[]
  /** Position whose state predicts, and the token it should predict. */
  readonly labels: readonly { readonly position: number; readonly target: number }[]
  /** Indices into the batch's documents, in the order their memory stands in the prompt. */
  readonly documents: readonly number[]
}

/** A prompt followed by its answer: ids, and how many of them are the prompt. */
export interface Prompt {
  readonly ids: readonly number[]
  readonly promptLength: number
}

/**
 * Joins prompts that begin alike into one row, so that their common beginning (system turn and memory) is computed once.
 * Each prompt sees exactly what it would see alone, at the same positions.
 */
export function packPrompts(prompts: readonly Prompt[], documents: readonly number[]): GeneratorRow {
  const [first] = prompts
  let shared = first ? first.ids.length : 0
  for (const { ids, promptLength } of prompts) {
    // a label's predictor must lie in its own segment, or alternatives would be told apart by one position
    shared = Math.min(shared, prompts.length > 1 ? promptLength - 1 : ids.length)
    let equal = 0
    while (equal < shared && ids[equal] === first?.ids[equal]) equal++
    shared = equal
  }
  const ids = first ? first.ids.slice(0, shared) : []
  const positions = ids.map((_, index) => index)
  const segments = ids.map(() => 0)
  const labels: { position: number; target: number }[] = []
  const row = [...ids]
  prompts.forEach((prompt, index) => {
    const offset = row.length - shared
    for (let at = shared; at < prompt.ids.length; at++) {
      row.push(prompt.ids[at] ?? 0)
      positions.push(at)
      segments.push(index + 1)
    }
    for (let at = prompt.promptLength; at < prompt.ids.length; at++) {
      const predictor = at - 1
      labels.push({ position: predictor < shared ? predictor : predictor + offset, target: prompt.ids[at] ?? 0 })
    }
  })
  return { ids: row, positions, segments, labels, documents }
}

export interface GeneratorBatchOptions {
  readonly padId: number
  /** Whether a token id is a memory slot. */
  readonly isMemory: (id: number) => boolean
  /** Memory tokens of each document of the batch, whose memories lie one after the other. */
  readonly memoryCounts: readonly number[]
  /** Weight of one label in the loss. */
  readonly labelWeight: number
}

/** The generator's inputs for some rows, padded on the left. */
export function generatorBatch(rows: readonly GeneratorRow[], options: GeneratorBatchOptions): Feeds {
  const length = Math.max(...rows.map(({ ids }) => ids.length))
  const count = rows.length
  const ids = new Array<number>(count * length).fill(options.padId)
  const positions = new Array<number>(count * length).fill(0)
  const memoryIndex = new Array<number>(count * length).fill(0)
  const isMemory = new Uint8Array(count * length)
  const bias = new Float32Array(count * length * length).fill(HIDDEN)
  const labelRows: number[] = []
  const targets: number[] = []
  const offsets: number[] = []
  options.memoryCounts.reduce((offset, memories) => {
    offsets.push(offset)
    return offset + memories
  }, 0)

  rows.forEach((row, index) => {
    const start = length - row.ids.length
    const base = index * length + start
    const memories = row.documents.flatMap((document) =>
      Array.from({ length: options.memoryCounts[document] ?? 0 }, (_, slot) => (offsets[document] ?? 0) + slot),
    )
    let used = 0
    row.ids.forEach((id, at) => {
      ids[base + at] = id
      positions[base + at] = row.positions[at] ?? 0
      if (options.isMemory(id)) {
        isMemory[base + at] = 1
        memoryIndex[base + at] = memories[used++] ?? 0
      }
      const line = (index * length + start + at) * length + start
      const segment = row.segments[at]
      for (let key = 0; key <= at; key++)
        if (row.segments[key] === 0 || row.segments[key] === segment) bias[line + key] = 0
    })
    // a prompt that was cut inside its memory teaches nothing, and no state of it is read
    if (used !== memories.length && row.labels.length > 0) {
      throw new RangeError(`A prompt has ${used} memory slots for ${memories.length} memory tokens.`)
    }
    for (const { position, target } of row.labels) {
      labelRows.push(base + position)
      targets.push(target)
    }
  })
  return {
    promptIds: int64(ids, [count, length]),
    promptPositions: int64(positions, [count, length]),
    memoryIndex: int64(memoryIndex, [count, length]),
    isMemory: { dtype: 'bool', dims: [count, length, 1], data: isMemory },
    promptBias: float32(bias, [count, 1, 1, length, length]),
    labelRows: int64(labelRows, [labelRows.length]),
    targets: int64(targets, [targets.length]),
    labelWeights: float32(new Float32Array(targets.length).fill(options.labelWeight), [targets.length]),
  }
}
