export { Clara } from './clara/clara.ts'
export type {
  AnswerOptions,
  CompressOptions,
  DocumentMemory,
  LoadOptions,
  RetrievalOptions,
  RetrievedAnswer,
} from './clara/clara.ts'
export type { Memory } from './clara/encoder.ts'
export { ClaraError } from './errors.ts'
export type { SamplingOptions } from './model/sampling.ts'
