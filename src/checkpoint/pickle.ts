/**
 * A reader of Python pickles that cannot run code. A pickle is a program for a stack machine whose `GLOBAL` fetches any Python function
 * and whose `REDUCE` calls it. Here the first looks into a table that the caller gives and refuses everything else by name; of the rest
 * only the instructions that build plain data exist.
 *
 * Source: CPython, `Lib/pickletools.py` (protocols 2 to 5).
 */
import { ClaraError } from '../errors.ts'

/** What a pickle may hold here. Lists and tuples are arrays; dictionaries are maps. */
export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | PickleValue[]
  | Map<PickleValue, PickleValue>
  | PickleFunction
  | { readonly kind: string }

/** A function or class that a pickle may name. */
export interface PickleFunction {
  readonly kind: 'function'
  readonly name: string
  readonly call: (parameters: readonly PickleValue[]) => PickleValue
}

export interface PickleRules {
  /** Names the pickle's source in errors. */
  readonly source: string
  /** Allowed globals by `module.name`. */
  readonly globals: ReadonlyMap<string, PickleFunction>
  /** What a persistent id stands for. */
  readonly persistent: (id: PickleValue) => PickleValue
}

/** Stands on the stack where MARK was; never leaves this file. */
const mark: { readonly kind: string } = { kind: 'mark' }
/** Longest integer, in bytes. */
const longestInteger = 64
/** One byte can create a dictionary of a hundred: the number of instructions bounds the memory. */
const mostInstructions = 2_000_000

/**
 * The object that a pickle describes.
 *
 * @throws ClaraError when it names a global outside the table, uses an instruction that builds objects, or is truncated or malformed.
 */
export function readPickle(bytes: Uint8Array, rules: PickleRules): PickleValue {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const stack: PickleValue[] = []
  const memo = new Map<number, PickleValue>()
  const text = new TextDecoder('utf-8', { fatal: true })
  let at = 0

  function malformed(problem: string): ClaraError {
    return new ClaraError(`The pickle in "${rules.source}" is malformed at byte ${at}: ${problem}.`, {
      hint: 'Download or copy the file again.',
    })
  }
  function take(length: number): number {
    if (length > bytes.length - at) throw malformed('it ends too early')
    at += length
    return at - length
  }
  const uint8 = () => view.getUint8(take(1))
  const uint16 = () => view.getUint16(take(2), true)
  const int32 = () => view.getInt32(take(4), true)
  const uint32 = () => view.getUint32(take(4), true)
  function length64(): number {
    const value = view.getBigUint64(take(8), true)
    if (value > BigInt(bytes.length)) throw malformed('it ends too early')
    return Number(value)
  }
  function string(length: number): string {
    const start = take(length)
    try {
      return text.decode(bytes.subarray(start, start + length))
    } catch {
      throw malformed('a string is not UTF-8')
    }
  }
  function blob(length: number): Uint8Array {
    const start = take(length)
    return bytes.slice(start, start + length)
  }
  function line(): string {
    const end = bytes.indexOf(10, at)
    if (end < 0) throw malformed('it ends inside a line')
    const value = string(end - at)
    at += 1
    return value
  }
  function integer(length: number): number | bigint {
    if (length > longestInteger) throw malformed(`an integer of ${length} bytes`)
    const start = take(length)
    let value = 0n
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(view.getUint8(start + i))
    const signed = BigInt.asIntN(8 * length, value)
    const number = Number(signed)
    return Number.isSafeInteger(number) ? number : signed
  }
  function pop(): PickleValue {
    const value = stack.pop()
    if (value === undefined || value === mark) throw malformed('the stack is empty')
    return value
  }
  function top(): PickleValue {
    const value = pop()
    stack.push(value)
    return value
  }
  function popToMark(): PickleValue[] {
    const start = stack.lastIndexOf(mark)
    if (start < 0) throw malformed('a mark is missing')
    return stack.splice(start).slice(1)
  }
  function popped(count: number): PickleValue[] {
    return Array.from({ length: count }, pop).reverse()
  }
  function append(items: readonly PickleValue[]): void {
    const list = top()
    if (!Array.isArray(list)) throw malformed('items for what is no list')
    for (const item of items) list.push(item)
  }
  function setItems(items: readonly PickleValue[]): void {
    const dictionary = top()
    if (!(dictionary instanceof Map)) throw malformed('items for what is no dictionary')
    if (items.length % 2 !== 0) throw malformed('a key without a value')
    for (let i = 0; i < items.length; i += 2) dictionary.set(items[i] ?? null, items[i + 1] ?? null)
  }
  function recall(index: number): PickleValue {
    const value = memo.get(index)
    if (value === undefined) throw malformed(`memo ${index} is not set`)
    return value
  }
  function global(module: string, name: string): PickleFunction {
    const found = rules.globals.get(`${module}.${name}`)
    if (found !== undefined) return found
    throw new ClaraError(`"${rules.source}" asks to run "${module}.${name}", which is not allowed.`, {
      expected: 'tensors, dictionaries, lists, numbers and strings only',
      hint: 'A checkpoint has no need of it: do not trust this file.',
    })
  }
  function reduce(): PickleValue {
    const parameters = pop()
    const callee = pop()
    if (!isFunction(callee) || !Array.isArray(parameters)) throw malformed('a call of what is no function')
    return callee.call(parameters)
  }
  /** Attributes beside a dictionary's items (a state dictionary's `_metadata`) say nothing about tensors. */
  function dropAttributes(): void {
    pop()
    if (!(top() instanceof Map)) throw malformed('attributes for what is no dictionary')
  }

  const instructions: Readonly<Record<number, () => void>> = {
    128: () => {
      const protocol = uint8()
      if (protocol < 2 || protocol > 5) throw malformed(`protocol ${protocol}, where 2 to 5 are known`)
    },
    149: () => void length64(), // FRAME
    40: () => void stack.push(mark), // MARK
    48: () => void pop(), // POP
    49: () => void popToMark(), // POP_MARK
    50: () => void stack.push(top()), // DUP
    78: () => void stack.push(null), // NONE
    136: () => void stack.push(true), // NEWTRUE
    137: () => void stack.push(false), // NEWFALSE
    74: () => void stack.push(int32()), // BININT
    75: () => void stack.push(uint8()), // BININT1
    77: () => void stack.push(uint16()), // BININT2
    138: () => void stack.push(integer(uint8())), // LONG1
    139: () => void stack.push(integer(uint32())), // LONG4
    71: () => void stack.push(view.getFloat64(take(8), false)), // BINFLOAT
    140: () => void stack.push(string(uint8())), // SHORT_BINUNICODE
    88: () => void stack.push(string(uint32())), // BINUNICODE
    141: () => void stack.push(string(length64())), // BINUNICODE8
    67: () => void stack.push(blob(uint8())), // SHORT_BINBYTES
    66: () => void stack.push(blob(uint32())), // BINBYTES
    93: () => void stack.push([]), // EMPTY_LIST
    97: () => append(popped(1)), // APPEND
    101: () => append(popToMark()), // APPENDS
    41: () => void stack.push([]), // EMPTY_TUPLE
    116: () => void stack.push(popToMark()), // TUPLE
    133: () => void stack.push(popped(1)), // TUPLE1
    134: () => void stack.push(popped(2)), // TUPLE2
    135: () => void stack.push(popped(3)), // TUPLE3
    125: () => void stack.push(new Map()), // EMPTY_DICT
    115: () => setItems(popped(2)), // SETITEM
    117: () => setItems(popToMark()), // SETITEMS
    113: () => void memo.set(uint8(), top()), // BINPUT
    114: () => void memo.set(uint32(), top()), // LONG_BINPUT
    148: () => void memo.set(memo.size, top()), // MEMOIZE
    104: () => void stack.push(recall(uint8())), // BINGET
    106: () => void stack.push(recall(uint32())), // LONG_BINGET
    99: () => {
      const module = line()
      stack.push(global(module, line()))
    }, // GLOBAL
    105: () => {
      const module = line()
      global(module, line())
      throw malformed('an instance of a class')
    }, // INST, of old protocols: only to refuse it by name
    147: () => {
      const [module, name] = popped(2)
      if (typeof module !== 'string' || typeof name !== 'string') throw malformed('a global whose name is no string')
      stack.push(global(module, name))
    }, // STACK_GLOBAL
    82: () => void stack.push(reduce()), // REDUCE
    98: dropAttributes, // BUILD
    81: () => void stack.push(rules.persistent(pop())), // BINPERSID
  }

  for (let executed = 0; executed < mostInstructions; executed++) {
    const code = uint8()
    if (code === 0x2e) return pop() // STOP
    const instruction = instructions[code]
    if (instruction === undefined) throw malformed(`instruction 0x${code.toString(16).padStart(2, '0')} is not allowed`)
    instruction()
  }
  throw malformed(`more than ${mostInstructions} instructions`)
}

/** Whether a value is one of the allowed globals. */
export function isFunction(value: PickleValue | undefined): value is PickleFunction {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'function'
}
