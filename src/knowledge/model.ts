import type { Clara } from '../clara/clara.ts'
import type { ClaraModel } from '../clara/model.ts'

/** What a knowledge base needs of a model: a {@link Clara} is one. */
export interface KnowledgeModel
  extends Pick<
    Clara,
    'compressDocuments' | 'compressQuestions' | 'score' | 'streamAnswer' | 'streamFullTextAnswer' | 'promptTokens'
  > {
  readonly model: Pick<ClaraModel, 'config' | 'fingerprint'> & {
    readonly tokenizer: Pick<ClaraModel['tokenizer'], 'encode'>
    readonly parameters?: ClaraModel['parameters']
    readonly base: { readonly config: Pick<ClaraModel['base']['config'], 'hidden_size'> }
  }
}
