import type { VerbTable } from './verb.ts'

/**
 * The verbs of `clara`, one line each. A verb's module is loaded when the verb is called:
 * `name: { summary: '…', load: () => import('./name.ts') }`.
 */
export const verbs: VerbTable = {
  add: { summary: 'Add files, folders and web pages to the knowledge base', load: () => import('./add.ts') },
  sync: { summary: 'Add what is new or changed, and remove what is gone', load: () => import('./sync.ts') },
  ask: { summary: 'Answer a question from the knowledge base, or from files', load: () => import('./ask.ts') },
  chat: {
    summary: 'Ask one question after the other, each with those before in mind',
    load: () => import('./chat.ts'),
  },
  search: { summary: 'Find the passages that fit a question', load: () => import('./search.ts') },
  remove: { summary: 'Remove documents from the knowledge base', load: () => import('./remove.ts') },
  stats: { summary: 'Tell what is in the knowledge base', load: () => import('./stats.ts') },
  verify: {
    summary: 'Read the whole knowledge base and compare it with its checksums',
    load: () => import('./verify.ts'),
  },
  export: { summary: 'Write the knowledge base into a Parquet file', load: () => import('./export.ts') },
  import: {
    summary: 'Read an exported knowledge base, without compressing anything again',
    load: () => import('./import.ts'),
  },
  compress: { summary: 'Compress text files into memory tokens', load: () => import('./compress.ts') },
  pull: {
    summary: 'Fetch a model from the Hugging Face hub into the shared cache',
    load: () => import('./pull.ts'),
  },
  train: { summary: 'Train adapters from a configuration file', load: () => import('./train.ts') },
  runs: { summary: 'List training runs and compare them', load: () => import('./runs.ts') },
  data: { summary: 'Check dataset files before training on them', load: () => import('./data.ts') },
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
  doctor: {
    summary: 'Check the installation, the model, the store, disk and memory',
    load: () => import('./doctor.ts'),
  },
  completion: { summary: 'Print what completes clara in a shell', load: () => import('./completion.ts') },
}
