import { z } from 'zod'
import type { Prompt } from '../../src/clara/batch.ts'
import {
  answerPrompt,
  documentSlot,
  paraphrasePrompt,
  paraphraseVariants,
  qaPairsPrompt,
  questionAnswerLines,
  trainingPrompt,
  withParsedSpecials,
} from '../../src/clara/prompts.ts'
import type { PublishedCheckpoint } from '../../src/clara/published.ts'
import type { ChatMessage, PromptText, Tokenizer } from '../../src/tokenizer/types.ts'
import { leftPad, longest, type Parity } from './model.ts'

/** One training sample as a folder states it. */
export interface Sample {
  readonly documents: readonly string[]
  readonly messages: readonly ChatMessage[]
  /** The assistant's turn. */
  readonly answer: string
}

const texts = z.array(z.string())
const answered = z.array(z.tuple([texts, z.string(), z.string()]))
const packed = z.array(z.tuple([texts, texts, texts]))
export const stage2Input = z.object({ rows: answered, generation_top_k: z.number().int(), temperature: z.number() })

/** The samples of `stage1_qa`, `stage1_paraphrase`, `stage1_2` or `stage2`. */
export function samplesOf({ fixture, stage1 }: Parity, stage: string): Sample[] {
  const slot = documentSlot(stage1.memory)
  if (stage === 'stage1_qa') {
    return fixture.value('stage1_qa.input', packed).map(([documents, questions, answers]) => ({
      documents,
      messages: qaPairsPrompt([slot]),
      answer: questionAnswerLines(questions.map((question, index) => ({ question, answer: answers[index] ?? '' }))),
    }))
  }
  if (stage === 'stage1_paraphrase') {
    const { prompts } = fixture.value(stage, z.object({ prompts: texts }))
    return fixture.value('stage1_paraphrase.input', answered).map(([documents, , answer], index) => ({
      documents,
      messages: paraphraseAsIn(prompts[index] ?? '', stage1, answer),
      answer,
    }))
  }
  if (stage === 'stage1_2') {
    return fixture.value('stage1_2.input', answered).map(([documents, question, answer]) => ({
      documents,
      messages: answerPrompt(
        question,
        documents.map(() => slot),
      ),
      answer,
    }))
  }
  const { rows, generation_top_k: k } = fixture.value('stage2.input', stage2Input)
  return rows.map(([documents, question, answer]) => ({
    documents,
    messages: answerPrompt(question, new Array<PromptText>(k).fill(slot)),
    answer,
  }))
}

/** The published code draws a paraphrase prompt at random: the one that renders as expected, else the first. */
export function paraphraseAsIn(
  expected: string,
  { tokenizer, memory }: PublishedCheckpoint,
  answer?: string,
): readonly ChatMessage[] {
  const slot = documentSlot(memory)
  const variants = Array.from({ length: paraphraseVariants }, (_, variant) => paraphrasePrompt([slot], variant))
  const found = variants.find((messages) => rendered(tokenizer, messages, answer) === expected)
  return found ?? paraphrasePrompt([slot], 0)
}

/** The text of a conversation: with the answer, or with the assistant's turn opened. */
export function rendered(tokenizer: Tokenizer, messages: readonly ChatMessage[], answer?: string): string {
  const conversation: readonly ChatMessage[] =
    answer === undefined ? messages : [...messages, { role: 'assistant', content: answer }]
  return tokenizer
    .renderChat(conversation, { addGenerationPrompt: answer === undefined })
    .map(({ text }) => text)
    .join('')
}

/** Ids of a sample, with special tokens recognised in everybody's text, as the published code reads it. */
export function promptOf(tokenizer: Tokenizer, { messages, answer }: Sample): Prompt {
  return trainingPrompt(tokenizer, withParsedSpecials(messages), [{ text: answer, trusted: true }])
}

const stated = z.object({ prompts: texts, prompt_lengths: z.array(z.number()) })

/** Compares what the generator reads, and returns it. */
export function comparePrompts(
  { fixture, report, stage1 }: Parity,
  stage: string,
  samples: readonly Sample[],
): Prompt[] {
  const { tokenizer } = stage1
  const expected = fixture.value(stage, stated)
  const texts = samples.map(({ messages, answer }) => rendered(tokenizer, messages, answer))
  const prompts = samples.map((sample) => promptOf(tokenizer, sample))
  report.exact(`${stage}.prompts`, texts, expected.prompts)
  report.exact(
    `${stage}.prompt_lengths`,
    prompts.map(({ promptLength }) => promptLength),
    expected.prompt_lengths,
  )
  const ids = prompts.map((prompt) => [...prompt.ids])
  const masks = ids.map((row) => row.map(() => 1))
  const width = longest(ids)
  const labels = prompts.map((prompt) => prompt.ids.map((id, at) => (at < prompt.promptLength ? -100 : id)))
  report.exact(`${stage}.dec_input_ids`, leftPad(ids, tokenizer.padId, width), fixture.rows(`${stage}.dec_input_ids`))
  report.exact(`${stage}.dec_attention_mask`, leftPad(masks, 0, width), fixture.rows(`${stage}.dec_attention_mask`))
  report.exact(`${stage}.labels`, leftPad(labels, -100, width), fixture.rows(`${stage}.labels`))
  return prompts
}
