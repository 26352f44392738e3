import type { VerbTable } from './verb.ts'

/**
 * The verbs of `clara`, one line each. A verb's module is loaded when the verb is called:
 * `name: { summary: '…', load: () => import('./name.ts') }`.
 */
export const verbs: VerbTable = {
  ask: { summary: 'Answer a question from text files', load: () => import('./ask.ts') },
  compress: { summary: 'Compress text files into memory tokens', load: () => import('./compress.ts') },
  pull: {
    summary: 'Fetch a model from the Hugging Face hub into the shared cache',
    load: () => import('./pull.ts'),
  },
  train: { summary: 'Train adapters from a configuration file', load: () => import('./train.ts') },
  pack: { summary: 'Turn a training run into a model folder', load: () => import('./pack.ts') },
  convert: {
    summary: 'Convert a checkpoint from the published layout, or to it',
    load: () => import('./convert.ts'),
  },
  inspect: {
    summary: 'Tell what is in a model file or folder, without loading it',
    load: () => import('./inspect.ts'),
  },
  evaluate: {
    summary: 'Measure a model against its controls on a file of questions',
    load: () => import('./evaluate.ts'),
  },
}
