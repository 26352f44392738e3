import type { Damage, DocumentRecord, StoreRow, Verification } from './store.ts'

/** `verify` names at most this many. */
const MOST_NAMED = 10_000
/** Of a document's missing rows so many numbers are told. */
const MOST_MISSING = 20

/** What a verification has seen so far. Rows first, then records. */
export class Findings {
  rows = 0
  readonly #damaged: Damage[] = []
  readonly #seen = new Set<string>()
  readonly #chunks = new Map<string, Set<number>>()
  readonly #documents = new Set<string>()

  report(damage: Damage): void {
    if (damage.documentId !== undefined) this.#documents.add(damage.documentId)
    if (this.#damaged.length < MOST_NAMED) this.#damaged.push(damage)
  }

  /** Notes that a row is there; whether one with its id was before. */
  isRepeated({ id, documentId, chunk }: Pick<StoreRow, 'id' | 'documentId' | 'chunk'>): boolean {
    if (this.#seen.has(id)) return true
    this.#seen.add(id)
    const chunks = this.#chunks.get(documentId) ?? new Set()
    this.#chunks.set(documentId, chunks.add(chunk))
    return false
  }

  /** Reports what a completely stored document lacks of its rows. `isSound`: its record has the right checksum. */
  checkRecord(record: DocumentRecord, isSound: boolean): void {
    const { documentId, chunks } = record
    if (!isSound) this.report({ documentId, problem: 'its record has another checksum' })
    const present = this.#chunks.get(documentId) ?? new Set()
    const missing: number[] = []
    for (let chunk = 0; chunk < chunks && missing.length <= MOST_MISSING; chunk++)
      if (!present.has(chunk)) missing.push(chunk)
    if (missing.length === 0) return
    const numbers = missing.slice(0, MOST_MISSING).join(', ')
    const problem = `it has ${present.size} of its ${chunks} rows; missing: ${numbers}${missing.length > MOST_MISSING ? ' …' : ''}`
    this.report({ documentId, problem })
  }

  /** Documents of which something is damaged or missing. */
  get documents(): string[] {
    return [...this.#documents]
  }

  get verification(): Verification {
    return { rows: this.rows, damaged: [...this.#damaged] }
  }
}
