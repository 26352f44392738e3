import { parseArgs } from 'node:util'
import { ClaraError } from '../../src/errors.ts'

export const help = `The main job of clara-ts on the embedded model: compress passages once, find
those that fit a question in latent space, and answer from their memory.

Usage
  npm run demo                   ten passages and questions that come with it
  npm run demo -- --question "…" --documents FILE.txt …     your text (UTF-8)

Flags
  --question TEXT     A question; may be repeated
  --documents FILE …  Text files to read instead of the passages
  --top-k N           Passages to answer from. Default: the model's own number
  --json              Print one JSON object and nothing else:
                      npm run --silent demo -- --json
  --help              Show this text

Times are in milliseconds. compress: once for all passages together. Then, from
the question on: until the passages were found (retrieve), the first token came,
the answer ended.`

export interface DemoArguments {
  readonly help: boolean
  readonly json: boolean
  readonly topK: number | undefined
  readonly questions: readonly string[]
  readonly documents: readonly string[]
}

/** @throws ClaraError for words that the demo does not know. */
export function parseDemoArguments(words: readonly string[]): DemoArguments {
  const { values, positionals } = parse(words)
  const { question = [], documents = [], 'top-k': topK } = values
  if (positionals.length > 0 && documents.length === 0) {
    throw new ClaraError(`The demo does not know what to do with ${JSON.stringify(positionals[0])}.`, {
      hint: 'Put --question before a question and --documents before files.',
    })
  }
  if (documents.length > 0 && question.length === 0) {
    throw new ClaraError('There is no question about the documents.', { hint: 'Add --question "…".' })
  }
  if (topK !== undefined && !/^[1-9]\d{0,5}$/.test(topK)) {
    throw new ClaraError(`--top-k cannot be ${JSON.stringify(topK)}.`, { expected: 'an integer from 1' })
  }
  return {
    help: values.help ?? false,
    json: values.json ?? false,
    topK: topK === undefined ? undefined : Number(topK),
    questions: question,
    // a shell's *.txt gives many files after one flag
    documents: [...documents, ...positionals],
  }
}

function parse(words: readonly string[]) {
  try {
    return parseArgs({
      args: [...words],
      allowPositionals: true,
      options: {
        question: { type: 'string', multiple: true },
        documents: { type: 'string', multiple: true },
        'top-k': { type: 'string' },
        json: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    })
  } catch (cause) {
    const [said] = (cause instanceof Error ? cause.message : String(cause)).split('. ')
    throw new ClaraError(`${said}.`, { hint: 'npm run demo -- --help lists the flags.', cause })
  }
}
