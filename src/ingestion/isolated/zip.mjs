import { inflateRawSync } from 'node:zlib'
import { Refusal } from './refusal.mjs'

const END = 0x06054b50
const ENTRY = 0x02014b50
const LOCAL = 0x04034b50
const MOST_ENTRIES = 10_000

const damaged = (/** @type {string} */ problem) => new Refusal(`is damaged: ${problem}`)

/**
 * The files of a zip archive in memory. The sizes that it claims are checked before anything is unpacked, and nothing unpacks to more than
 * it claimed.
 * @param {Uint8Array} bytes
 * @param {number} limit most bytes of all its XML after unpacking, and of all that is read
 */
export function openZip(bytes, limit) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const entries = directory(view, bytes)
  let claimed = 0
  for (const [name, { size }] of entries) if (/\.(?:xml|rels)$/i.test(name)) claimed += size
  const expected = `at most ${(limit / 1024 / 1024).toFixed(0)} MiB of XML`
  if (claimed > limit) {
    throw new Refusal('would unpack to too much', { expected, received: `${(claimed / 1024 / 1024).toFixed(0)} MiB` })
  }
  let unpacked = 0

  /** @param {string} name */
  function contents(name) {
    const entry = entries.get(name)
    if (entry === undefined) throw damaged(`it has no ${JSON.stringify(name)}`)
    unpacked += entry.size
    if (unpacked > limit) throw new Refusal('would unpack to too much', { expected })
    const { at, packed, size, method } = entry
    if (at + 30 > bytes.length || view.getUint32(at, true) !== LOCAL) throw damaged('a file is not where it should be')
    const start = at + 30 + view.getUint16(at + 26, true) + view.getUint16(at + 28, true)
    if (start + packed > bytes.length) throw damaged('a file reaches beyond its end')
    const data = bytes.subarray(start, start + packed)
    if (method === 0) return data
    if (method !== 8) throw damaged(`unknown compression ${method}`)
    let result
    try {
      result = inflateRawSync(data, { maxOutputLength: size + 1 })
    } catch (error) {
      throw damaged(
        `${JSON.stringify(name)} does not unpack to the size that it claims (${/** @type {Error} */ (error).message})`,
      )
    }
    if (result.length !== size) throw damaged(`${JSON.stringify(name)} does not unpack to the size that it claims`)
    return result
  }

  return {
    /** @param {string} name */
    exists: (name) => entries.has(name),
    /**
     * @param {string} name @param {string} [encoding]
     * @returns {Promise<Uint8Array | string>}
     */
    read: async (name, encoding) => {
      const data = contents(name)
      if (encoding === undefined) return data
      return encoding === 'base64' ? Buffer.from(data).toString('base64') : new TextDecoder(encoding).decode(data)
    },
  }
}

/** @param {DataView} view @param {Uint8Array} bytes */
function directory(view, bytes) {
  if (bytes.length >= 4 && view.getUint32(0, true) === 0xe011cfd0) {
    throw new Refusal('is an encrypted document or one of Word before 2007', {
      hint: 'Save it as .docx without a password.',
    })
  }
  let end = bytes.length - 22
  for (const first = Math.max(0, end - 0xffff); end >= first && view.getUint32(end, true) !== END; ) end--
  if (end < 0 || view.getUint32(end, true) !== END) throw new Refusal('is no Word document (.docx), or is cut short')
  const count = view.getUint16(end + 10, true)
  if (count > MOST_ENTRIES) throw new Refusal('has too many files in it', { received: String(count) })
  /** @type {Map<string, { at: number, packed: number, size: number, method: number }>} */
  const entries = new Map()
  const text = new TextDecoder()
  let at = view.getUint32(end + 16, true)
  for (let index = 0; index < count; index++) {
    if (at + 46 > bytes.length || view.getUint32(at, true) !== ENTRY) throw damaged('its directory is broken')
    const nameLength = view.getUint16(at + 28, true)
    const next = at + 46 + nameLength + view.getUint16(at + 30, true) + view.getUint16(at + 32, true)
    if (next > bytes.length) throw damaged('its directory is broken')
    if ((view.getUint16(at + 8, true) & 1) !== 0)
      throw new Refusal('is encrypted', { hint: 'Save it without a password.' })
    const [packed, size, local] = [20, 24, 42].map((offset) => view.getUint32(at + offset, true))
    // 4 GiB and more would stand in an extra field: far beyond every limit
    if (
      packed === undefined ||
      size === undefined ||
      local === undefined ||
      Math.max(packed, size, local) === 0xffffffff
    ) {
      throw new Refusal('would unpack to too much', { received: '4 GiB or more' })
    }
    const name = text.decode(bytes.subarray(at + 46, at + 46 + nameLength))
    if (entries.has(name)) throw damaged(`${JSON.stringify(name)} stands in it twice`)
    entries.set(name, { at: local, packed, size, method: view.getUint16(at + 10, true) })
    at = next
  }
  return entries
}
