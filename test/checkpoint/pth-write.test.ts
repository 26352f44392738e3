import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { openPth, readPth, type TensorRecord } from '../../src/checkpoint/pth.ts'
import { type PthContent, writePth } from '../../src/checkpoint/pth-write.ts'
import { float32, type HostTensor, int64 } from '../../src/graph/dtype.ts'
import { bytesOf, expectClaraError, temporaryFolder, utf8 } from './support.ts'

const parity = new URL('../fixtures/parity/', import.meta.url).pathname
const isTensor = (item: HostTensor | TensorRecord): item is HostTensor => 'data' in item && 'dims' in item

/** A record as the writer takes it; equal tables are one, as in the published code, where they are references. */
function contentOf(record: TensorRecord): PthContent {
  const tables: HostTensor[] = []
  const tensors = (items: TensorRecord): [string, HostTensor][] =>
    Object.entries(items).flatMap(([name, item]) => {
      if (!isTensor(item)) return []
      const known = tables.find(({ data }) => Buffer.compare(bytesOf(data), bytesOf(item.data)) === 0)
      if (!known && /embed_tokens|lm_head/.test(name)) tables.push(item)
      return [[name, known ?? item]]
    })
  return new Map(
    Object.entries(record).map(([name, item]) => [name, isTensor(item) ? item : new Map(tensors(item))] as const),
  )
}

/** Where the last entry begins that the writer leaves out: a hash over the file, which nothing reads. */
function serializationId(bytes: Buffer): number {
  const name = bytes.indexOf(utf8('/.data/serialization_id'))
  return bytes.lastIndexOf(Uint8Array.of(0x50, 0x4b, 3, 4), name)
}

describe('the writer of PyTorch checkpoints', () => {
  test('gives the very bytes of torch.save, for every checkpoint of the fixtures', async () => {
    const paths = (await readdir(parity, { recursive: true })).filter((path) => path.endsWith('.pth'))
    expect(paths.length).toBeGreaterThanOrEqual(8)
    for (const path of paths) {
      const written = await readFile(join(parity, path))
      const copy = join(await temporaryFolder(), path.split('/').at(-1) ?? '')
      // In the tables, which are parameters, only the embedding of a stage 1 checkpoint takes gradients.
      const isTable = path.includes('decoder_first_last_layers')
      const learns = (name: string) => name.includes('embed_tokens') && path.includes('checkpoint/')
      await writePth(copy, contentOf(await readPth(join(parity, path))), isTable ? { parameters: learns } : {})
      const bytes = await readFile(copy)
      const end = serializationId(written)
      expect(end).toBeGreaterThan(10_000)
      expect(bytes.subarray(0, end).equals(written.subarray(0, end)), path).toBe(true)
    }
  })

  test('what it writes is read back: any names, shapes and numbers, in order', async () => {
    const folder = await temporaryFolder()
    const tensor = fc.array(fc.nat(4), { maxLength: 3 }).chain((dims) =>
      fc.float32Array({ minLength: 64, maxLength: 64 }).map((data) =>
        float32(
          data.slice(
            0,
            dims.reduce((a, b) => a * b, 1),
          ),
          dims,
        ),
      ),
    )
    const named = fc.array(fc.tuple(fc.string({ unit: 'grapheme' }), tensor), { maxLength: 5 })
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(fc.string(), named), { maxLength: 4 }), async (roles) => {
        const content = new Map(roles.map(([role, tensors]) => [role, new Map(tensors)]))
        const path = join(folder, 'model.pth')
        await writePth(path, content)
        const record = await readPth(path)
        expect(contentOf(record)).toEqual(content)
      }),
      { numRuns: 50 },
    )
  })

  test('bfloat16 is rounded to nearest even, and every storage is aligned', async () => {
    // seven bits of fraction: halves of a step go to the even neighbour
    const data = Float32Array.of(1 + 2 ** -8, 1 + 3 * 2 ** -8, -Math.PI, 1e-40, Number.POSITIVE_INFINITY, 65504)
    const rounded = Float32Array.of(1, 1 + 2 ** -6, -3.140625, 2 ** -133, Number.POSITIVE_INFINITY, 65536)
    const path = join(await temporaryFolder(), 'model.pth')
    await writePth(path, new Map([['w', float32(data, [2, 3])]]), { float: 'bfloat16' })
    await using file = await openPth(path)
    const w = file.root.get('w')
    expect(w).toMatchObject({ storedType: 'BFloat16', dims: [2, 3] })
    expect((await readPth(path)).w).toEqual(float32(rounded, [2, 3]))
    const bytes = await readFile(path)
    const header = bytes.lastIndexOf(Uint8Array.of(0x50, 0x4b, 3, 4), bytes.indexOf(utf8('model/data/0')))
    expect((header + 30 + bytes.readUInt16LE(header + 26) + bytes.readUInt16LE(header + 28)) % 64).toBe(0)
  })

  test('more than a thousand items, and more than 256 to remember', async () => {
    const content = new Map(
      Array.from({ length: 2001 }, (_, index) => [`layer ${index}`, float32([index], [1])] as const),
    )
    const path = join(await temporaryFolder(), 'model.pth')
    await writePth(path, content)
    expect(contentOf(await readPth(path))).toEqual(content)
  })

  test('refuses what it cannot hold, and leaves no file', async () => {
    const folder = await temporaryFolder()
    const write = (tensor: HostTensor) => writePth(join(folder, 'model.pth'), new Map([['w', tensor]]))
    await expectClaraError(write(int64([1], [1])), /"w" cannot be written .*float32.*int64/)
    await expectClaraError(write({ dtype: 'float32', dims: [3], data: new Float32Array(2) }), /\[3\].*Got 2/)
    // A view that repeats one number stands for five gibibytes.
    const large = { dtype: 'float32', dims: [5 << 28], data: Object.create(Float32Array.prototype) } as HostTensor
    Object.defineProperty(large.data, 'length', { value: 5 << 28 })
    await expectClaraError(write(large), /larger than 4 GiB/)
    expect(await readdir(folder)).toEqual([])
  })
})
