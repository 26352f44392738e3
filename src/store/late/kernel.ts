import { ClaraError } from '../../errors.ts'
import { kernelBytes } from './kernel-bytes.ts'

/** The functions of kernel.wat, and the memory that they work in; arguments named as places are addresses in it. */
export interface Kernel {
  readonly memory: WebAssembly.Memory
  readonly sumTables: SumTables
  /** Of four tokens of a question at once. */
  readonly sumTablesOfFour: SumTables
  readonly addBest: (
    sums: number,
    factors: number,
    ends: number,
    rows: number,
    weight: number,
    share: number,
    scores: number,
  ) => void
  readonly maxSimilarity: (
    asked: number,
    questions: number,
    tokens: number,
    count: number,
    width: number,
    best: number,
  ) => number
  /** @returns The nearest one's number · 65,536 + its distance, as 32 unsigned bits in a signed number. */
  readonly nearest: (query: number, strings: number, count: number, bytes: number) => number
}

type SumTables = (codes: number, blocks: number, bytes: number, tables: number, sums: number) => void

const PAGE = 65_536

let compiled: WebAssembly.Module | undefined

/** A kernel with memory of its own, which goes when nobody holds it any more. */
export function openKernel(): Kernel {
  compiled ??= new WebAssembly.Module(Buffer.from(kernelBytes, 'base64'))
  const { memory, sumTables, sumTablesOfFour, addBest, maxSimilarity, nearest } = new WebAssembly.Instance(compiled)
    .exports
  if (
    !(memory instanceof WebAssembly.Memory) ||
    !isFunction(sumTables) ||
    !isFunction(sumTablesOfFour) ||
    !isFunction(addBest) ||
    !isFunction(maxSimilarity) ||
    !isFunction(nearest)
  )
    throw new TypeError('The kernel lacks a part.')
  return { memory, sumTables, sumTablesOfFour, addBest, maxSimilarity, nearest }
}

const isFunction = (value: unknown): value is (...numbers: number[]) => number => typeof value === 'function'

/** Hands out a kernel's memory from its beginning, 16 bytes aligned; nothing is given back but all of it. */
export class Arena {
  readonly #memory: WebAssembly.Memory
  #used = 0

  constructor(memory: WebAssembly.Memory) {
    this.#memory = memory
  }

  get used(): number {
    return this.#used
  }

  /** @throws ClaraError when the system has no more memory. */
  take(bytes: number): number {
    const place = this.#used
    const end = place + Math.ceil(bytes / 16) * 16
    const missing = end - this.#memory.buffer.byteLength
    if (missing > 0) {
      // more at a time, since growing may copy all of it
      const wanted = Math.ceil(Math.max(missing, this.#memory.buffer.byteLength / 4) / PAGE)
      if (!grow(this.#memory, wanted) && !grow(this.#memory, Math.ceil(missing / PAGE))) {
        throw new ClaraError('There is not enough memory for the index of a search.', {
          expected: `${Math.ceil(end / 2 ** 20)} MiB`,
          hint: 'Close other programs, or search with mode "text".',
        })
      }
    }
    this.#used = end
    return place
  }

  reset(used: number): void {
    this.#used = used
  }
}

function grow(memory: WebAssembly.Memory, pages: number): boolean {
  try {
    memory.grow(pages)
    return true
  } catch {
    return false
  }
}
