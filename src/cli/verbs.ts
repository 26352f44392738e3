import type { VerbTable } from './verb.ts'

/**
 * The verbs of `clara`, one line each. A verb's module is loaded when the verb is called:
 * `name: { summary: '…', load: () => import('./name.ts') }`.
 */
export const verbs: VerbTable = {
  ask: { summary: 'Answer a question from text files', load: () => import('./ask.ts') },
  compress: { summary: 'Compress text files into memory tokens', load: () => import('./compress.ts') },
  train: { summary: 'Train adapters from a configuration file', load: () => import('./train.ts') },
  pack: { summary: 'Turn a training run into a model folder', load: () => import('./pack.ts') },
  evaluate: {
    summary: 'Measure a model against its controls on a file of questions',
    load: () => import('./evaluate.ts'),
  },
}
