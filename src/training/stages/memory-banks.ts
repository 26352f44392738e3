import { type MemoryBank, type MemoryBankOptions, openMemoryBank } from './memory-bank.ts'

/** The memories of a run's documents at each of its compression rates. */
export interface MemoryBanks extends AsyncDisposable {
  /** Documents that had to be compressed so far, at any rate. */
  readonly compressed: number
  readonly at: (rate: number) => Promise<MemoryBank>
}

export function memoryBanks(model: MemoryBankOptions['model'], folder: string): MemoryBanks {
  const banks = new Map<number, MemoryBank>()
  return {
    get compressed() {
      return [...banks.values()].reduce((sum, bank) => sum + bank.compressed, 0)
    },
    async at(rate) {
      const bank = banks.get(rate) ?? (await openMemoryBank({ model, rate, folder }))
      banks.set(rate, bank)
      return bank
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([...banks.values()].map((bank) => bank.close()))
    },
  }
}
