import { Parser } from 'htmlparser2'
import mammoth from 'mammoth'
import { textOfHtml } from './html-text.mjs'
import { Refusal } from './refusal.mjs'
import { openZip } from './zip.mjs'

/**
 * The text of a Word document, with its heading styles as headings. Pictures are left out.
 * @param {Uint8Array} bytes
 * @param {{ unpackedBytes: number, characters: number }} limits
 * @returns {Promise<import('./process.mjs').Result>}
 */
export async function readDocx(bytes, limits) {
  const zip = openZip(bytes, limits.unpackedBytes)
  if (!zip.exists('[Content_Types].xml')) throw new Refusal('is a zip file, but no Word document (.docx)')
  // the library takes an archive that is already open; its types do not say so
  const input = /** @type {any} */ ({ file: zip })
  const { value: html } = await mammoth
    .convertToHtml(input, {
      convertImage: mammoth.images.imgElement(async () => ({ src: '' })),
      includeEmbeddedStyleMap: false,
      externalFileAccess: false,
      styleMap: ["p[style-name='Title'] => h1:fresh", "p[style-name='Subtitle'] => p:fresh"],
    })
    .catch((/** @type {unknown} */ error) => {
      if (error instanceof Refusal) throw error
      throw new Refusal('is not a Word document, or is damaged', {
        received:
          String(error instanceof Error ? error.message : error)
            .split(/\n/)[0]
            ?.replace(/\s+/g, ' ')
            .slice(0, 200) ?? '',
      })
    })
  const { text, headings } = textOfHtml(html, limits)
  if (text.trim() === '') throw new Refusal('has no text')
  const { title, creator } = await properties(zip)
  const name = title ?? headings.find(({ level }) => level === 1)?.title
  return {
    text,
    headings,
    ...(name ? { title: name } : {}),
    metadata: creator === undefined ? {} : { author: creator },
  }
}

/**
 * @param {ReturnType<typeof openZip>} zip
 * @returns {Promise<{ title?: string, creator?: string }>}
 */
async function properties(zip) {
  if (!zip.exists('docProps/core.xml')) return {}
  /** @type {Record<string, string>} */
  const found = {}
  let at = ''
  const parser = new Parser(
    {
      onopentagname(name) {
        at = name === 'dc:title' || name === 'dc:creator' ? name.slice(3) : ''
      },
      ontext(text) {
        if (at !== '' && (found[at] ?? '').length < 1000) found[at] = (found[at] ?? '') + text
      },
      onclosetag() {
        at = ''
      },
    },
    { xmlMode: true, decodeEntities: true },
  )
  parser.end(String(await zip.read('docProps/core.xml', 'utf-8')))
  return Object.fromEntries(
    Object.entries(found)
      .map(([name, value]) => [name, value.trim()])
      .filter(([, value]) => value !== ''),
  )
}
