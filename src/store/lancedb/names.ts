/** What rows are called, in bytes instead of two strings a row, which would be most of what a search holds. */
export class RowNames {
  #bytes = Buffer.alloc(1 << 16)
  #end = 0
  /** Of each row where its names begin; undefined where it has none yet. */
  readonly #starts: (number | undefined)[] = []
  readonly #idBytes: number[] = []
  readonly #documentBytes: number[] = []

  has(row: number): boolean {
    return this.#starts[row] !== undefined
  }

  /** @param id In UTF-8, as `documentId`. */
  set(row: number, id: Uint8Array, documentId: Uint8Array): void {
    const end = this.#end + id.length + documentId.length
    if (end > this.#bytes.length) {
      const grown = Buffer.alloc(2 * end)
      grown.set(this.#bytes)
      this.#bytes = grown
    }
    this.#bytes.set(id, this.#end)
    this.#bytes.set(documentId, this.#end + id.length)
    this.#starts[row] = this.#end
    this.#idBytes[row] = id.length
    this.#documentBytes[row] = documentId.length
    this.#end = end
  }

  /** @throws RangeError for a row without names. */
  of(row: number): { readonly id: string; readonly documentId: string } {
    const start = this.#starts[row]
    if (start === undefined) throw new RangeError('The row has no names.')
    const middle = start + (this.#idBytes[row] ?? 0)
    const end = middle + (this.#documentBytes[row] ?? 0)
    return { id: this.#bytes.toString('utf8', start, middle), documentId: this.#bytes.toString('utf8', middle, end) }
  }
}
