export type {
  AnswerDocument,
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
export type { ChatTurn } from './knowledge/conversation.ts'
export { KnowledgeBase } from './knowledge/knowledge-base.ts'
export type { KnowledgeModel } from './knowledge/model.ts'
export type {
  Added,
  AddFilesOptions,
  AddOptions,
  Answer,
  AskOptions,
  ChatOptions,
  FilesAdded,
  KnowledgeBaseOptions,
  Synced,
} from './knowledge/options.ts'
export type { SearchOptions, Source } from './knowledge/search.ts'
export type { KnowledgeStats } from './knowledge/stats.ts'
export type { SamplingOptions } from './model/sampling.ts'
export type { JsonValue, RowFilter } from './store/store.ts'
