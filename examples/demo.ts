/*
 * npm run demo: compresses passages once, then answers questions from their memory, beside the same model reading their full text.
 * The product's part is `main` below; the rest reads files and prints.
 */
import { readFile } from 'node:fs/promises'
import { printError } from '../src/cli/command-line.ts'
import { statusLine, textStyle } from '../src/cli/terminal.ts'
import type { Clara, KnowledgeDocument, Source } from '../src/index.ts'
import { help, parseDemoArguments } from './demo/arguments.ts'
import { type DemoAnswer, fullTextReport, labelled, memoryReport } from './demo/report.ts'

interface Passages {
  readonly passages: readonly { id: string; title: string; text: string; source: string; licence: string }[]
  readonly questions: readonly { question: string; answers: readonly string[] }[]
}

interface Asked {
  readonly question: string
  readonly expected?: readonly string[]
}

process.on('SIGINT', () => {
  process.stderr.write('\nInterrupted.\n')
  process.exit(130)
})
// a reader that has seen enough, such as `head`, closes the pipe
process.stdout.on('error', () => process.exit(0))

const style = textStyle(process.stdout, process.env)
const status = statusLine(process.stderr)

try {
  await main()
} catch (error) {
  status.clear()
  printError(error, { stderr: process.stderr, environment: process.env })
  process.exitCode = 1
}

async function main(): Promise<void> {
  const given = parseDemoArguments(process.argv.slice(2))
  if (given.help) return print(help)
  const say = given.json ? () => undefined : print
  const { documents, questions, origin } = await material(given.documents, given.questions)
  for (const line of origin) say(line)

  status.show('loading the model')
  const { Clara, KnowledgeBase } = await import('../src/index.ts')
  await using clara = await Clara.load()
  await using knowledge = await KnowledgeBase.open({ clara })
  const started = performance.now()
  const { compressed } = await knowledge.add(documents, {
    onProgress: ({ done, total }) => status.show(`compressing: passage ${done} of ${total}`),
  })
  const compress = performance.now() - started
  status.clear()
  say(labelled(style, 'compress', `${compressed} passages in ${Math.round(compress)} ms, once for all questions`))

  const results: DemoAnswer[] = []
  for (const asked of questions) {
    status.show('answering')
    const found = await knowledge.ask(asked.question, given.topK === undefined ? {} : { topK: given.topK })
    status.clear()
    say(`\n${memoryReport(style, asked.question, found)}`)
    const { answer, sources, usage } = found
    const { promptTokens, ms } = usage
    status.show('reading the full text')
    const fullText = await readFullText(clara, asked.question, sources)
    const result = { ...asked, answer, sources, promptTokens, ms: { compress, ...ms }, fullText }
    status.clear()
    say(fullTextReport(style, result))
    results.push(result)
  }
  if (given.json) print(JSON.stringify({ passages: compressed, questions: results }))
}

/** The comparison: the same model reads the same passages as text. */
async function readFullText(
  clara: Clara,
  question: string,
  sources: readonly Source[],
): Promise<DemoAnswer['fullText']> {
  const started = performance.now()
  let firstToken: number | undefined
  let answer = ''
  const texts = sources.map(({ text }) => text)
  for await (const piece of clara.streamFullTextAnswer(question, texts)) {
    firstToken ??= performance.now() - started
    answer += piece
  }
  const total = performance.now() - started
  return { answer: answer.trim(), ms: { firstToken: firstToken ?? total, total } }
}

async function material(
  files: readonly string[],
  questions: readonly string[],
): Promise<{ documents: readonly KnowledgeDocument[]; questions: readonly Asked[]; origin: readonly string[] }> {
  const own = questions.map((question) => ({ question }))
  if (files.length > 0) {
    const { readDocuments } = await import('../src/knowledge/files.ts')
    return { documents: await readDocuments(files), questions: own, origin: [] }
  }
  const data = JSON.parse(await readFile(new URL('./passages.json', import.meta.url), 'utf8')) as Passages
  return {
    documents: data.passages.map(({ id, title, text, source, licence }) => ({
      id,
      text,
      metadata: { title, source, licence },
    })),
    questions: own.length > 0 ? own : data.questions.map(({ question, answers }) => ({ question, expected: answers })),
    origin: data.passages.map(({ title, source, licence }, place) =>
      labelled(style, place === 0 ? 'passages' : '', `${title} (${source}; ${licence})`),
    ),
  }
}

function print(text: string): void {
  process.stdout.write(`${text}\n`)
}
