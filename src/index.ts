export type {
  AnswerOptions,
  CompressOptions,
  DocumentMemory,
  LoadOptions,
  RetrievalOptions,
  RetrievedAnswer,
} from './clara/clara.ts'
export { Clara } from './clara/clara.ts'
export type { Memory } from './clara/encoder.ts'
export { ClaraError } from './errors.ts'
export type { KnowledgeDocument } from './knowledge/chunks.ts'
export type {
  Added,
  AddOptions,
  Answer,
  AskOptions,
  KnowledgeBaseOptions,
  KnowledgeModel,
  SearchOptions,
  Source,
} from './knowledge/knowledge-base.ts'
export { KnowledgeBase } from './knowledge/knowledge-base.ts'
export type { SamplingOptions } from './model/sampling.ts'
export type { JsonValue, RowFilter } from './store/store.ts'
