/** Pickles of protocol 2, instruction by instruction as CPython's pickler writes them (`Lib/pickle.py`), of what a checkpoint needs. */

/** What can be written. Strings given as the same `PickledOnce` object are written once and recalled. */
export type Pickled =
  | boolean
  | number
  | string
  | PickledOnce
  | { readonly kind: 'tuple'; readonly items: readonly Pickled[] }
  | { readonly kind: 'dictionary'; readonly items: readonly (readonly [string, Pickled])[] }
  | { readonly kind: 'call'; readonly callee: PickledOnce; readonly parameters: readonly Pickled[] }
  | { readonly kind: 'persistent'; readonly id: Pickled }

/** A string or a global that stands in many places of a pickle. */
export interface PickledOnce {
  readonly kind: 'once'
  readonly text: string
  /** The module, when `text` is the name of a global. */
  readonly module?: string
}

/** Items that one instruction puts into a dictionary. */
const batchItems = 1000

/** The bytes of a pickle. */
export function writePickle(value: Pickled): Uint8Array<ArrayBuffer> {
  const bytes: number[] = [0x80, 2]
  const once = new Map<PickledOnce, number>()
  let memos = 0

  function code(instruction: string): void {
    bytes.push(instruction.charCodeAt(0))
  }
  function uint32(number: number): void {
    bytes.push(number & 255, (number >>> 8) & 255, (number >>> 16) & 255, number >>> 24)
  }
  function text(content: string): void {
    for (const byte of new TextEncoder().encode(content)) bytes.push(byte)
  }
  function remember(): number {
    const index = memos++
    reference(index, 'q', 'r')
    return index
  }
  function reference(index: number, short: string, long: string): void {
    code(index < 256 ? short : long)
    if (index < 256) bytes.push(index)
    else uint32(index)
  }
  function integer(number: number): void {
    if (number >= 0 && number < 0x100) {
      code('K')
      bytes.push(number)
    } else if (number >= 0 && number < 0x10000) {
      code('M')
      bytes.push(number & 255, number >>> 8)
    } else if (number >= -0x80000000 && number < 0x80000000) {
      code('J')
      uint32(number >>> 0)
    } else {
      longInteger(BigInt(number))
    }
  }
  /** LONG1: two's complement in as few bytes as hold it. */
  function longInteger(number: bigint): void {
    let length = 1
    while (BigInt.asIntN(8 * length, number) !== number) length += 1
    bytes.push(0x8a, length)
    for (let at = 0; at < length; at++) bytes.push(Number((number >> BigInt(8 * at)) & 255n))
  }
  function string(content: string): void {
    code('X')
    uint32(new TextEncoder().encode(content).length)
    text(content)
  }
  function recalled(item: PickledOnce): void {
    const known = once.get(item)
    if (known !== undefined) {
      reference(known, 'h', 'j')
    } else {
      if (item.module === undefined) string(item.text)
      else text(`c${item.module}\n${item.text}\n`)
      once.set(item, remember())
    }
  }
  function tuple(items: readonly Pickled[]): void {
    if (items.length > 3) code('(')
    for (const item of items) put(item)
    if (items.length === 0 || items.length > 3) code(items.length === 0 ? ')' : 't')
    else bytes.push(0x84 + items.length)
    // there is but one empty tuple, which is not remembered
    if (items.length > 0) remember()
  }
  function dictionary(items: readonly (readonly [string, Pickled])[]): void {
    code('}')
    remember()
    for (let start = 0; start < items.length; start += batchItems) {
      const batch = items.slice(start, start + batchItems)
      if (batch.length > 1) code('(')
      for (const [key, item] of batch) {
        put(key)
        put(item)
      }
      code(batch.length > 1 ? 'u' : 's')
    }
  }
  function put(item: Pickled): void {
    if (typeof item === 'boolean') bytes.push(item ? 0x88 : 0x89)
    else if (typeof item === 'number') integer(item)
    else if (typeof item === 'string') {
      string(item)
      remember()
    } else if (item.kind === 'once') recalled(item)
    else if (item.kind === 'tuple') tuple(item.items)
    else if (item.kind === 'dictionary') dictionary(item.items)
    else if (item.kind === 'persistent') {
      put(item.id)
      code('Q')
    } else {
      recalled(item.callee)
      tuple(item.parameters)
      code('R')
      remember()
    }
  }
  put(value)
  code('.')
  return Uint8Array.from(bytes)
}
