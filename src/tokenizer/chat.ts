import { Template } from '@huggingface/jinja'
import { ClaraError } from '../errors.ts'
import type { ChatMessage, PromptPart, PromptText } from './types.ts'

/** What a chat template may refer to besides the messages. */
export interface ChatTemplateContext {
  /** Named special tokens, such as `bos_token`. */
  readonly variables: Readonly<Record<string, string>>
  readonly addGenerationPrompt: boolean
}

/** A compiled chat template, ready to render many conversations. */
export type ChatTemplate = (messages: readonly ChatMessage[], context: ChatTemplateContext) => PromptText

/** Compiles a chat template. Throws {@link ClaraError} where the Jinja source is at fault. */
export function compileChatTemplate(source: string, origin: string): ChatTemplate {
  const template = attempt(`The chat template of ${origin} cannot be read.`, () => new Template(source))
  return (messages, context) => {
    try {
      return render(template, source, messages, context)
    } catch (error) {
      const [system, user, ...rest] = messages
      if (!refusesSystemRole(error) || system?.role !== 'system' || user?.role !== 'user') {
        throw templateError(`The chat template of ${origin} refused this conversation.`, error)
      }
      const content = [...partsOf(system.content), { text: '\n', trusted: true }, ...partsOf(user.content)]
      return attempt(`The chat template of ${origin} refused this conversation.`, () =>
        render(template, source, [{ role: 'user', content }, ...rest], context),
      )
    }
  }
}

/** Templates name the refusal in their own words; a demand for alternating roles is how some refuse a leading system turn. */
function refusesSystemRole(error: unknown): boolean {
  return error instanceof Error && /system role|must alternate/i.test(error.message)
}

/**
 * Untrusted text never enters the template: a short marker stands for it, and the text is put back afterwards. So the template
 * cannot mistake it for structure, and the result knows where it lies. White space around it stays in the template's sight,
 * because templates trim their contents.
 */
function render(
  template: Template,
  source: string,
  messages: readonly ChatMessage[],
  context: ChatTemplateContext,
): PromptText {
  const parts = messages.map((message) => partsOf(message.content))
  const visible = [source, ...Object.values(context.variables)]
  for (const part of parts.flat()) if (part.trusted) visible.push(part.text)
  const bracket = unusedCharacter(visible)
  const hidden: string[] = []
  const mark = (part: PromptPart): string => {
    const text = part.text.trim()
    if (part.trusted || text === '') return part.text
    const start = part.text.indexOf(text)
    const marker = `${bracket}${hidden.push(text) - 1}${bracket}`
    return part.text.slice(0, start) + marker + part.text.slice(start + text.length)
  }
  const rendered = template.render({
    ...context.variables,
    messages: messages.map(({ role }, index) => ({ role, content: (parts[index] ?? []).map(mark).join('') })),
    add_generation_prompt: context.addGenerationPrompt,
    enable_thinking: false,
  })
  // Odd pieces of the split are the numbers between two brackets.
  return rendered.split(bracket).flatMap((text, index): PromptPart[] => {
    if (index % 2 === 0) return text === '' ? [] : [{ text, trusted: true }]
    const original = /^\d+$/.test(text) ? hidden[Number(text)] : undefined
    if (original === undefined) throw new Error('it takes a message apart instead of quoting it')
    return [{ text: original, trusted: false }]
  })
}

/** The parts of a message; a plain string is one untrusted part. */
function partsOf(content: string | PromptText): PromptText {
  return typeof content === 'string' ? [{ text: content, trusted: false }] : content
}

/** A private-use character that occurs in none of the texts. */
function unusedCharacter(texts: readonly string[]): string {
  for (let code = 0xe000; code < 0xf900; code++) {
    const character = String.fromCharCode(code)
    if (!texts.some((text) => text.includes(character))) return character
  }
  throw new Error('it uses every private-use character')
}

function attempt<T>(problem: string, action: () => T): T {
  try {
    return action()
  } catch (error) {
    throw templateError(problem, error)
  }
}

function templateError(problem: string, cause: unknown): ClaraError {
  return new ClaraError(problem, { received: cause instanceof Error ? cause.message : String(cause), cause })
}
