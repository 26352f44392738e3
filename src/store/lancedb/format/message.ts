import { BinaryReader, WireType } from '@bufbuild/protobuf/wire'

/** A protobuf message, read without its description: of each field what it holds, in order. Numbers of fixed width, which Lance's descriptions do not use, are left out. */
export type Message = ReadonlyMap<number, readonly (number | Uint8Array)[]>

/** @throws Error when the bytes are no message. */
export function messageOf(bytes: Uint8Array): Message {
  const reader = new BinaryReader(bytes)
  const message = new Map<number, (number | Uint8Array)[]>()
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag()
    const values = message.get(field) ?? []
    message.set(field, values)
    if (type === WireType.Varint) values.push(Number(reader.uint64()))
    else if (type === WireType.LengthDelimited) values.push(reader.bytes())
    else reader.skip(type, field)
  }
  return message
}

/** Messages in a field, none where it is absent. */
export function messagesIn(message: Message | undefined, field: number): Message[] {
  return (message?.get(field) ?? []).filter((value) => value instanceof Uint8Array).map(messageOf)
}

/** The number in a field, 0 where it is absent, as protobuf has it. */
export function numberIn(message: Message | undefined, field: number): number {
  const value = message?.get(field)?.at(-1) ?? 0
  return typeof value === 'number' ? value : Number.NaN
}

/** Numbers in a field, packed or one by one. */
export function numbersIn(message: Message | undefined, field: number): number[] {
  return (message?.get(field) ?? []).flatMap((value) => {
    if (typeof value === 'number') return [value]
    const reader = new BinaryReader(value)
    const numbers: number[] = []
    while (reader.pos < reader.len) numbers.push(Number(reader.uint64()))
    return numbers
  })
}

export function textIn(message: Message | undefined, field: number): string {
  const value = message?.get(field)?.at(-1)
  return value instanceof Uint8Array ? Buffer.from(value).toString('utf8') : ''
}
