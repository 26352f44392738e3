/** Scripts that put no spaces between words: their runs are cut into overlapping pairs of characters. */
const UNSPACED = String.raw`\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}`
const runs = new RegExp(`(?=[\\p{L}\\p{N}])[${UNSPACED}]\\p{M}*|(?:(?![${UNSPACED}])[\\p{L}\\p{N}\\p{M}])+`, 'gu')
const unspaced = new RegExp(`^[${UNSPACED}]`, 'u')
/** Longer words are cut: nobody asks for them, and databases limit them. In UTF-16 units. */
const LONGEST_WORD = 64
/** Words beyond this many, or this many characters, are left out, so that no text exceeds what a database can index. */
const MOST_WORDS = 30_000
const MOST_CHARACTERS = 200_000

/**
 * The words of a text as full-text search sees them, in order, repeated as they are: runs of letters, digits and marks, in lower case, with compatibility
 * forms and accents folded (NFKD without combining marks, for the Latin, Greek and Cyrillic scripts). No language is assumed: no stop words,
 * no stemming. All drivers share it, so that they find the same.
 */
export function wordsOf(text: string): string[] {
  const words: string[] = []
  let characters = 0
  let previous: { readonly character: string; readonly end: number } | undefined
  for (const match of text.normalize('NFKC').toLowerCase().matchAll(runs)) {
    const [run] = match
    characters += Math.min(run.length, LONGEST_WORD) * 2
    if (words.length >= MOST_WORDS || characters > MOST_CHARACTERS) break
    if (!unspaced.test(run)) {
      const word = folded(run)
        .slice(0, LONGEST_WORD)
        .replace(/[\uD800-\uDBFF]$/, '')
      if (word !== '') words.push(word)
      continue
    }
    // single characters too, so that a word of one character is found
    words.push(run)
    if (previous?.end === match.index) words.push(previous.character + run)
    previous = { character: run, end: match.index + run.length }
  }
  return words
}

/** Accents belong to letters of these scripts; in others a mark may be a vowel, and stays. */
const accents = /(?<=[\p{Script=Latin}\p{Script=Greek}\p{Script=Cyrillic}])\p{Mn}+/gu

function folded(word: string): string {
  return word.normalize('NFD').replace(accents, '').normalize('NFC')
}
