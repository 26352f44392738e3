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
  AddProgress,
  Answer,
  AskOptions,
  ChatOptions,
  FileProgress,
  FilesAdded,
  KnowledgeBaseOptions,
  Synced,
} from './knowledge/options.ts'
export type { MemoryKind } from './knowledge/place.ts'
export type { SearchOptions, Source } from './knowledge/search.ts'
export type { KnowledgeStats } from './knowledge/stats.ts'
export type { SamplingOptions } from './model/sampling.ts'
export type { LanceStoreOptions } from './store/lancedb/driver.ts'
export { openLanceStore } from './store/lancedb/driver.ts'
export { openInMemoryStore } from './store/memory.ts'
export type { PostgresStoreOptions } from './store/postgres/driver.ts'
export { openPostgresStore } from './store/postgres/driver.ts'
export type {
  AddOutcome,
  Candidate,
  Condition,
  DocumentRecord,
  JsonValue,
  RowFilter,
  Scalar,
  Store,
  StoreDescription,
  StoredMemory,
  StoreRow,
  StoreStats,
  TextSearchOptions,
  VectorSearchOptions,
  Verification,
} from './store/store.ts'
