import { openWeights } from '../checkpoint/weights.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { MEMORY_ROWS } from './compressor.ts'
import { memoryLength } from './config.ts'
import { type ClaraModel, loadModel, type ModelOptions } from './model.ts'
import { modelFingerprint, SPECIAL_HEAD_ROWS, SPECIAL_ROWS } from './model-folder.ts'
import { EMBEDDING, HEAD } from './network.ts'
import { loadPublishedBase, type PublishedCheckpoint, readPublished } from './published.ts'
import { layoutOf, settingsOf } from './published-config.ts'
import { ownTables } from './published-tables.ts'
import { stopTokens } from './stop-tokens.ts'

/**
 * Opens a model folder of ours, or a checkpoint in the published layout, which names its base in `decoder_model_name`.
 * @throws ClaraError when a file is missing, damaged, or belongs to another base.
 */
export async function openModel(folder: string, options: ModelOptions = {}): Promise<ClaraModel> {
  if ((await layoutOf(folder)) !== 'published') return loadModel(folder, options)
  const checkpoint = await readPublished(folder, options)
  const { tokenizer, memory, firstMemoryToken, config: published } = checkpoint
  const config = settingsOf(published)
  const tensors = await checkpointTensors(checkpoint)
  const base = await loadPublishedBase(checkpoint)
  const inTables = [SPECIAL_ROWS, SPECIAL_HEAD_ROWS, EMBEDDING, HEAD]
  return {
    base,
    tokenizer,
    firstMemoryToken,
    memoryTokens: memory.differentMemTokens ? memoryLength(config) : 1,
    config,
    parameters: new Map([...tensors].filter(([name]) => !inTables.includes(name))),
    idf: undefined,
    stopIds: await stopTokens(checkpoint.baseFolder, tokenizer),
    stage: published.training_stage,
    fingerprint: modelFingerprint(base.fingerprint, config, tensors),
  }
}

/**
 * All that a model folder of the same model holds: the adapters (a copied query reasoner left out), the memory rows, the rows of all added
 * tokens, and tables that are not the base's.
 */
export async function checkpointTensors(checkpoint: PublishedCheckpoint): Promise<ReadonlyMap<string, HostTensor>> {
  const { embedding, head, tokenizer } = checkpoint
  const tensors = new Map<string, HostTensor>()
  for (const [role, adapter] of checkpoint.adapters) {
    if (role === 'query_reasoner_adapter' && !checkpoint.hasQueryReasoner) continue
    for (const [name, value] of adapter) tensors.set(name, value)
  }
  tensors.set(MEMORY_ROWS, checkpoint.memoryRows)
  const baseVocabulary = tokenizer.baseVocabularySize
  tensors.set(SPECIAL_ROWS, rowsFrom(embedding, baseVocabulary))
  if (head) tensors.set(SPECIAL_HEAD_ROWS, rowsFrom(head, baseVocabulary))
  await using source = await openWeights(checkpoint.baseFolder)
  for (const [name, table] of await ownTables({ ...checkpoint, baseVocabulary }, source)) tensors.set(name, table)
  return tensors
}

function rowsFrom({ dims: [rows = 0, width = 0], data }: HostTensor, first: number): HostTensor {
  return { dtype: 'float32', dims: [rows - first, width], data: data.slice(first * width) }
}
