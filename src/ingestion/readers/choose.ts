import { ClaraError } from '../../errors.ts'
import { looksLikeText } from '../decode.ts'
import type { ReaderName } from '../options.ts'
import { codeReader } from './code.ts'
import { csvReader } from './csv.ts'
import { docxReader } from './docx.ts'
import { htmlReader } from './html.ts'
import { jsonLinesReader } from './jsonl.ts'
import { markdownReader } from './markdown.ts'
import { pdfReader } from './pdf.ts'
import type { Reader } from './reader.ts'
import { textReader } from './text.ts'

const readers: Readonly<Record<ReaderName, Reader>> = {
  text: textReader,
  markdown: markdownReader,
  html: htmlReader,
  pdf: pdfReader,
  docx: docxReader,
  csv: csvReader,
  jsonl: jsonLinesReader,
  code: codeReader,
}
const all = Object.values(readers)
const byExtension = new Map(all.flatMap((reader) => reader.extensions.map((extension) => [extension, reader])))
const byMediaType = new Map(all.flatMap((reader) => reader.mediaTypes.map((type) => [type, reader])))
/** What a server says when it does not know. */
const unspecific = new Set(['', 'application/octet-stream', 'binary/octet-stream'])

/** Extensions of files that are certainly nothing to read: they are not even opened. */
const binaryExtensions = new Set(
  '7z a avi bin bmp bz2 class dat db dll dmg doc dylib eot exe flac gguf gif gz ico iso jar jpeg jpg m4a mkv mov mp3 mp4 npy npz o ogg onnx otf parquet pdb png pptx psd pth pt pyc rar safetensors so sqlite svg tar tif tiff ttf war wasm wav webm webp woff woff2 xls xlsx xz zip zst'.split(
    ' ',
  ),
)

/** The extension of a name, in lower case, without the dot; empty where there is none. */
function extensionOf(path: string): string {
  return /[^/\\]\.([\p{L}\p{N}]+)$/u.exec(path)?.[1]?.toLowerCase() ?? ''
}

/** Whether a file's name alone says that there is no text in it. */
export const isBinaryName = (path: string): boolean => binaryExtensions.has(extensionOf(path))

export const readerNamed = (name: ReaderName): Reader => readers[name]

/**
 * The reader for a file: by the sender's type, else the extension, else the first bytes.
 * @returns undefined when it is binary.
 * @throws ClaraError when the sender's type is one that is not read.
 */
export function chooseReader(path: string, head: Uint8Array, name: string, mediaType?: string): Reader | undefined {
  const extended = byExtension.get(extensionOf(path))
  if (mediaType !== undefined && !unspecific.has(mediaType)) {
    // servers call Markdown, CSV and code plain text
    if (mediaType === 'text/plain' && extended && extended !== pdfReader && extended !== docxReader) return extended
    const typed = byMediaType.get(mediaType) ?? (mediaType.startsWith('text/') ? textReader : undefined)
    if (typed) return typed
    throw new ClaraError(`${name} is of a type that is not read.`, {
      received: JSON.stringify(mediaType.slice(0, 100)),
      expected: 'text, Markdown, HTML, PDF, Word, CSV, JSON lines or source code',
    })
  }
  if (extended) return extended
  if (Buffer.from(head.subarray(0, 5)).toString('latin1') === '%PDF-') return pdfReader
  return looksLikeText(head) ? textReader : undefined
}
