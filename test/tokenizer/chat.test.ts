import { Template } from '@huggingface/jinja'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { compileChatTemplate } from '../../src/tokenizer/chat.ts'
import type { ChatMessage, PromptText } from '../../src/tokenizer/types.ts'
import { textOf } from './support.ts'

const turns =
  "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[end]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
const trimming = turns.replace("m['content']", "m['content'] | trim")
const variables = { bos_token: '<s>', eos_token: '</s>' }

function render(source: string, messages: readonly ChatMessage[], addGenerationPrompt = false): PromptText {
  return compileChatTemplate(source, 'the test model')(messages, { variables, addGenerationPrompt })
}

const user = (content: string | PromptText): ChatMessage => ({ role: 'user', content })
const untrustedOf = (prompt: PromptText) => prompt.filter((part) => !part.trusted).map(({ text }) => text)

describe('a rendered conversation', () => {
  const awkward = [
    '\uE000',
    '\uE0000\uE000',
    '\uE001',
    '0',
    '1',
    '{{ bos_token }}',
    '{% raw %}',
    '[end]',
    ' ',
    '\n',
    '</s>',
  ]
  const content = fc
    .array(fc.oneof(fc.constantFrom(...awkward), fc.string({ unit: 'binary' })), { maxLength: 6 })
    .map((all) => all.join(''))

  test.each([
    ['quotes', turns],
    ['trims', trimming],
  ])('is what the template gives for plain strings where it %s them', (_, source) => {
    const template = new Template(source)
    fc.assert(
      fc.property(fc.array(content, { minLength: 1, maxLength: 3 }), fc.boolean(), (contents, generation) => {
        const messages = contents.map(user)
        const expected = template.render({ ...variables, messages, add_generation_prompt: generation })
        expect(textOf(render(source, messages, generation))).toBe(expected)
      }),
      { numRuns: 300 },
    )
  })

  test('marks exactly the text of others as untrusted', () => {
    fc.assert(
      fc.property(fc.array(content, { maxLength: 4 }), (contents) => {
        const kept = contents.map((text) => text.trim()).filter((text) => text !== '')
        expect(untrustedOf(render(turns, contents.map(user)))).toEqual(kept)
      }),
    )
  })

  test('keeps the trust of a message in parts', () => {
    const prompt = render(turns, [
      user([
        { text: 'Background:\n<MEM0>\uE000', trusted: true },
        { text: 'who? <MEM0>', trusted: false },
      ]),
    ])
    expect(prompt).toEqual([
      { text: '[user]Background:\n<MEM0>\uE000', trusted: true },
      { text: 'who? <MEM0>', trusted: false },
      { text: '[end]', trusted: true },
    ])
  })
})

test('templates see named tokens and that thinking is off', () => {
  const source =
    '{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{% if enable_thinking is false %}<think></think>{% endif %}'
  expect(textOf(render(source, [user('x')]))).toBe('<s>x</s><think></think>')
})

test('line breaks after blocks and spaces before them are layout', () => {
  expect(textOf(render('  {% if true %}\nA\n  {% endif %}\nB\n', []))).toBe('A\nB')
})

describe('a template that refuses a system turn', () => {
  const conversation: ChatMessage[] = [
    { role: 'system', content: [{ text: 'Be brief.', trusted: true }] },
    { role: 'user', content: 'Hi' },
    { role: 'assistant', content: 'Yes' },
  ]
  test.each(['System role not supported', 'Conversation roles must alternate user/assistant/user/assistant/...'])(
    'with "%s" gets it in the user turn',
    (message) => {
      const source = `{% if messages[0]['role'] == 'system' %}{{ raise_exception('${message}') }}{% endif %}${turns}`
      const prompt = render(source, conversation)
      expect(textOf(prompt)).toBe('[user]Be brief.\nHi[end][assistant]Yes[end]')
      expect(untrustedOf(prompt)).toEqual(['Hi', 'Yes'])
    },
  )

  test('for another reason, or without one, is an error that says so', () => {
    const refusing = "{{ raise_exception('no tools here') }}"
    expect(() => render(refusing, conversation)).toThrow(/test model refused this conversation.*no tools here/)
    const always = "{{ raise_exception('System role not supported') }}"
    expect(() => render(always, [user('Hi')])).toThrow(/System role not supported/)
  })
})

test('a template that takes untrusted text apart is an error, not a wrong prompt', () => {
  expect(() => render('{{ messages[0].content[1:] }}', [user('Hello')])).toThrow(/takes a message apart/)
})

test('a template that cannot be read names its origin', () => {
  expect(() => compileChatTemplate('{% if %}', 'the test model')).toThrow(
    /chat template of the test model cannot be read/,
  )
})
