import { decodeText } from '../decode.ts'
import type { Reader } from './reader.ts'

/** Plain text, as it is. */
export const textReader: Reader = {
  name: 'text',
  extensions: ['txt', 'text', 'log', 'asc', 'rst', 'adoc', 'asciidoc', 'org', 'tex', 'srt', 'vtt'],
  mediaTypes: ['text/plain'],
  async *read(input, { limits }) {
    yield { text: decodeText(await input.bytes(limits.bytes), input.name, input.charset) }
  },
}
