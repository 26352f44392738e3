import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { z } from 'zod'
import { openSafetensors } from '../../src/checkpoint/safetensors.ts'
import { ClaraError } from '../../src/errors.ts'
import type { HostTensor } from '../../src/graph/dtype.ts'

/** A folder of expected numbers; it remembers what was looked at. */
export interface Fixture {
  readonly folder: string
  has(name: string): boolean
  /** A value of cases.json. @throws ClaraError when it is missing or not what the schema says. */
  value<Schema extends z.ZodType>(name: string, schema: Schema): z.output<Schema>
  /** A tensor of expected.safetensors. */
  tensor(name: string): HostTensor
  /** A matrix of integers as rows. */
  rows(name: string): number[][]
  /** Tensors whose names start so, by the rest of their names. */
  tensorsBehind(prefix: string): ReadonlyMap<string, HostTensor>
  /** Names that nothing has asked for. */
  unused(): string[]
}

/** @throws ClaraError when the folder lacks cases.json or expected.safetensors, or they cannot be read. */
export async function openFixture(folder: string): Promise<Fixture> {
  const cases = await readCases(join(folder, 'cases.json'))
  await using file = await openSafetensors(join(folder, 'expected.safetensors'))
  const tensors = new Map<string, HostTensor>()
  for (const name of file.tensors.keys()) tensors.set(name, await file.read(name))
  const used = new Set<string>()
  const path = (name: string) => `'${name}' of ${folder}`

  const fixture: Fixture = {
    folder,
    has: (name) => cases.has(name) || tensors.has(name),
    value(name, schema) {
      used.add(name)
      const parsed = schema.safeParse(cases.get(name))
      if (parsed.success) return parsed.data
      const [issue] = parsed.error.issues
      const place = issue?.path.join('.')
      throw new ClaraError(`${path(name)} is not as expected${place ? `, at ${place}` : ''}: ${issue?.message}.`)
    },
    tensor(name) {
      used.add(name)
      const tensor = tensors.get(name)
      if (!tensor) throw new ClaraError(`expected.safetensors lacks ${path(name)}.`)
      return tensor
    },
    rows(name) {
      const { dims, data } = fixture.tensor(name)
      const [count = 0, width = 0] = dims
      if (dims.length !== 2) throw new ClaraError(`${path(name)} is no matrix.`, { received: `shape [${dims}]` })
      const numbers = Array.from(data, Number)
      return Array.from({ length: count }, (_, row) => numbers.slice(row * width, (row + 1) * width))
    },
    tensorsBehind(prefix) {
      const found = [...tensors].filter(([name]) => name.startsWith(prefix))
      for (const [name] of found) used.add(name)
      return new Map(found.map(([name, tensor]) => [name.slice(prefix.length), tensor]))
    },
    unused: () => [...cases.keys(), ...tensors.keys()].filter((name) => !used.has(name)),
  }
  return fixture
}

async function readCases(path: string): Promise<ReadonlyMap<string, unknown>> {
  const text = await readFile(path, 'utf8').catch((cause: unknown) => {
    throw new ClaraError(`There is no "${path}".`, {
      expected: 'a folder with base, checkpoint, cases.json and expected.safetensors',
      cause,
    })
  })
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (cause) {
    throw new ClaraError(`"${path}" is not JSON.`, { cause })
  }
  if (typeof parsed !== 'object' || parsed === null) throw new ClaraError(`"${path}" is no JSON object.`)
  return new Map(Object.entries(parsed))
}
