import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type FileTensor, float32, type HostTensor } from '../../src/graph/dtype.ts'
import { addInput, addOutput, addWeight, createGraph } from '../../src/graph/graph.ts'
import { add } from '../../src/ops/elementwise.ts'
import { matmul } from '../../src/ops/matmul.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'

let runtime: Runtime
let folder: string
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
  folder = await mkdtemp(join(tmpdir(), 'clara-weights-'))
})
afterAll(async () => {
  await runtime.close()
  await rm(folder, { recursive: true, force: true })
})

/** x W + b, with both as weights. */
function model() {
  const graph = createGraph('affine')
  const x = addInput(graph, 'x', 'float32', ['rows', 2])
  const product = matmul(x, addWeight(graph, 'W', 'float32', [2, 3]))
  addOutput(graph, 'y', add(product, addWeight(graph, 'b', 'float32', [3])))
  return encodeGraph(graph)
}

/** A file that holds a float32 tensor behind some bytes of something else. */
async function stored(
  path: string,
  offset: number,
  values: readonly number[],
  dims: readonly number[],
): Promise<FileTensor> {
  const bytes = Buffer.alloc(offset + values.length * 4 + 3, 0xff)
  values.forEach((value, index) => {
    bytes.writeFloatLE(value, offset + index * 4)
  })
  await writeFile(path, bytes)
  return { dtype: 'float32', dims, file: path, offset }
}

const x = float32([1, 2], [1, 2])
const weights = (weight: FileTensor, bias: FileTensor | HostTensor) =>
  new Map<string, FileTensor | HostTensor>([
    ['W', weight],
    ['b', bias],
  ])

test('a session takes weights from files, at any offset', async () => {
  const weight = await stored(join(folder, 'a weight.bin'), 4100, [1, 2, 3, 4, 5, 6], [2, 3])
  const bias = await stored(join(folder, 'bias.bin'), 0, [10, 20, 30], [3])
  await using session = await runtime.open(model(), weights(weight, bias))
  // a session that is open no longer needs the names
  await rm(weight.file)
  await rm(bias.file)
  for (let run = 0; run < 2; run++) expect([...((await session.run({ x }))['y']?.data ?? [])]).toEqual([19, 32, 45])
})

test('several weights may lie in one file', async () => {
  const weight = await stored(join(folder, 'both.bin'), 16, [1, 2, 3, 4, 5, 6, 7, 8, 9], [2, 3])
  const bias = { ...weight, dims: [3], offset: 16 + 24 }
  await using session = await runtime.open(model(), weights(weight, bias))
  expect([...((await session.run({ x }))['y']?.data ?? [])]).toEqual([16, 20, 24])
})

test('a weight in a file that does not fit, or lies elsewhere than the others, is refused', async () => {
  const weight = await stored(join(folder, 'w.bin'), 0, [1, 2, 3, 4, 5, 6], [3, 2])
  const bias = await stored(join(folder, 'b.bin'), 0, [1, 2, 3], [3])
  const right = { ...weight, dims: [2, 3] }
  await expect(runtime.open(model(), weights(weight, bias))).rejects.toThrow(/'W' does not fit.*\[2, 3\].*\[3, 2\]/)
  const elsewhere = { ...bias, file: join(folder, 'sub', 'b.bin') }
  await expect(runtime.open(model(), weights(right, elsewhere))).rejects.toThrow(/two folders/)
  const inMemory = float32([1, 2, 3], [3])
  await expect(runtime.open(model(), weights(right, inMemory))).rejects.toThrow(/some lie in memory and some in files/)
})
