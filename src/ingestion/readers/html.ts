import { decodeText } from '../decode.ts'
import { readIsolated } from '../isolated.ts'
import type { Reader } from './reader.ts'

/** Web pages: the readable part. Nothing in them is executed or fetched. */
export const htmlReader: Reader = {
  name: 'html',
  extensions: ['html', 'htm', 'xhtml'],
  mediaTypes: ['text/html', 'application/xhtml+xml'],
  async *read(input, { limits, signal }) {
    const bytes = await input.bytes(limits.bytes)
    const text = decodeText(bytes, input.name, input.charset ?? declaredCharset(bytes))
    yield await readIsolated({ kind: 'html', text }, limits, input.name, signal)
  },
}

/** The encoding that the page itself names near its beginning (HTML standard, 13.2.3.2, in short). */
function declaredCharset(bytes: Uint8Array): string | undefined {
  const start = Buffer.from(bytes.subarray(0, 4096)).toString('latin1')
  const found =
    /<meta\s[^>]*?charset\s*=\s*["']?\s*([\w.:-]{1,40})/i.exec(start) ??
    /^<\?xml\s[^>]*?encoding\s*=\s*["']([\w.:-]{1,40})/i.exec(start)
  const charset = found?.[1]?.toLowerCase()
  // a page whose markup can be read byte by byte is not UTF-16, whatever it says
  return charset?.startsWith('utf-16') ? undefined : charset
}
