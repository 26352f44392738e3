import { readdir } from 'node:fs/promises'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { openPth, readPth } from '../../src/checkpoint/pth.ts'
import { ClaraError } from '../../src/errors.ts'
import { float32, int64 } from '../../src/graph/dtype.ts'
import { call, dictionary, global, pickle, pth, storage, tensor, tuple, zip } from './pickle-bytes.ts'
import { bytesOf, concatenated, expectClaraError, temporaryFile, uint32, uint64, utf8 } from './support.ts'

const parity = new URL('../fixtures/parity/', import.meta.url)
const readBytes = async (bytes: Uint8Array) => readPth(await temporaryFile('model.pth', bytes))
const six = bytesOf(Float32Array.of(0, 1, 2, 3, 4, 5))
/** Records have no prototype, which `toEqual` does not mind. */
const readTensor = async (bytes: Uint8Array) => (await readBytes(bytes)).w

describe('checkpoints that PyTorch wrote', () => {
  test('adapters by role, parameters by name', async () => {
    await using file = await openPth(new URL('mistral-1/checkpoint-stage2/adapters.pth', parity).pathname)
    expect([...file.root.keys()].sort()).toEqual(['decoder_adapter', 'encoder_adapter', 'query_reasoner_adapter'])
    // First values by Python's own zipfile and pickle.
    const name = 'model.layers.0.self_attn.k_proj.lora_A.weight'
    const values = await Promise.all(
      ['decoder_adapter', 'encoder_adapter', 'query_reasoner_adapter'].map(async (role) => {
        const parameters = file.root.get(role)
        const found = parameters instanceof Map ? parameters.get(name) : undefined
        expect(found).toMatchObject({ storedType: 'Float', dims: [4, 64] })
        return [...(await found.read()).data.subarray(0, 3)]
      }),
    )
    expect(values).toEqual([
      [-0.0771484375, 0.1708984375, 0.0771484375],
      [-0.236328125, 0.234375, 0.10693359375],
      [-0.2556154131889343, 0.2380785346031189, 0.09578990191221237],
    ])
  })

  test('flat parameters, wrapped as nn.Parameter', async () => {
    const record = await readPth(new URL('mistral-1/checkpoint/decoder_first_last_layers.pth', parity).pathname)
    expect(Object.keys(record).sort()).toEqual(['lm_head.weight', 'model.embed_tokens.weight'])
  })

  test('every one in the fixtures opens and every value is finite', async () => {
    const paths = (await readdir(parity, { recursive: true })).filter((path) => path.endsWith('.pth'))
    expect(paths.length).toBeGreaterThanOrEqual(8)
    for (const path of paths) {
      const pending: unknown[] = [await readPth(new URL(path, parity).pathname)]
      for (let item = pending.pop(); item !== undefined; item = pending.pop()) {
        if (typeof item !== 'object' || item === null) continue
        if ('data' in item) expect((item.data as Float32Array).every(Number.isFinite)).toBe(true)
        else pending.push(...Object.values(item))
      }
    }
  })
})

describe('what PyTorch itself saves, views and all', () => {
  const saved = (name: string) => new URL(`../fixtures/torch/${name}.pth`, import.meta.url).pathname
  const all = Array.from({ length: 24 }, (_, index) => index)
  const at = (rows: readonly number[], columns: readonly number[]) =>
    rows.flatMap((row) => columns.map((column) => 6 * row + column))

  test.each([2, 4, 5])('protocol %i', async (protocol) => {
    const record = await readPth(saved(`protocol-${protocol}`))
    expect(record).toEqual({
      whole: float32(all, [4, 6]),
      transposed: float32(
        [0, 1, 2, 3, 4, 5].flatMap((column) => at([0, 1, 2, 3], [column])),
        [6, 4],
      ),
      corner: float32(at([1, 2], [2, 3, 4]), [2, 3]),
      every_other: float32(at([0, 1, 2, 3], [0, 2, 4]), [4, 3]),
      // sevenths with eight significant bits, as PyTorch prints them
      bfloat16: float32(
        [0, 0.142578125, 0.28515625, 0.427734375, 0.5703125, 0.71484375, 0.85546875, 1, 1.140625, 1.2890625].concat([
          1.4296875, 1.5703125,
        ]),
        [3, 4],
      ),
      bfloat16_transposed: float32(
        [
          0, 0.5703125, 1.140625, 0.142578125, 0.71484375, 1.2890625, 0.28515625, 0.85546875, 1.4296875, 0.427734375,
        ].concat([1, 1.5703125]),
        [4, 3],
      ),
      parameter: float32([1.5, -2.5], [2]),
      float16: float32([0.0999755859375, 65504], [1, 2]),
      float64: float32([0.1], []),
      int64: int64([2 ** 40, -1], [2]),
      bool: { dtype: 'bool', dims: [2], data: Uint8Array.of(1, 0) },
      nested: { list: { 0: float32([1, 1], [2]) } },
    })
    await using file = await openPth(saved(`protocol-${protocol}`))
    const nested = file.root.get('nested')
    expect(nested instanceof Map && Object.fromEntries(nested)).toMatchObject({
      text: 'ä',
      large: 2n ** 70n,
      none: null,
    })
  })

  test('values that are still to be negated are refused, not read with the wrong sign', async () => {
    await expectClaraError(readPth(saved('negated')), /still to be negated.*resolve_neg/)
  })
})

describe('tensors', () => {
  test.for([false, true])('two views of one storage, one of them transposed; zip64: %s', async (zip64) => {
    const shared = storage('Float', '0', 6)
    const value = dictionary({
      plain: tensor(shared, 0, [2, 3], [3, 1]),
      transposed: tensor(shared, 0, [3, 2], [1, 3]),
      column: tensor(shared, 1, [2], [3]),
    })
    expect(await readBytes(pth(value, { 0: six }, zip64))).toEqual({
      plain: float32([0, 1, 2, 3, 4, 5], [2, 3]),
      transposed: float32([0, 3, 1, 4, 2, 5], [3, 2]),
      column: float32([1, 4], [2]),
    })
  })

  test('any strided view equals indexing by hand', async () => {
    const values = Float32Array.from({ length: 120 }, (_, i) => i)
    await fc.assert(
      fc.asyncProperty(
        fc.shuffledSubarray([0, 1, 2], { minLength: 3 }),
        fc.nat(1),
        fc.nat(1),
        fc.nat(1),
        async (order, ...start) => {
          // A permuted slice of a [4, 5, 6] tensor.
          const [shape, steps] = [
            [4, 5, 6],
            [30, 6, 1],
          ]
          const dims = order.map((axis) => (shape[axis] ?? 0) - (start[axis] ?? 0))
          const strides = order.map((axis) => steps[axis] ?? 0)
          const offset = start.reduce((sum, from, axis) => sum + from * (steps[axis] ?? 0), 0)
          const expected: number[] = []
          for (let a = 0; a < (dims[0] ?? 0); a++)
            for (let b = 0; b < (dims[1] ?? 0); b++)
              for (let c = 0; c < (dims[2] ?? 0); c++)
                expected.push(offset + a * (strides[0] ?? 0) + b * (strides[1] ?? 0) + c * (strides[2] ?? 0))
          const value = dictionary({ w: tensor(storage('Float', '0', 120), offset, dims, strides) })
          expect(await readTensor(pth(value, { 0: bytesOf(values) }))).toEqual(float32(expected, dims))
        },
      ),
      { numRuns: 40 },
    )
  })

  test.for([
    ['BFloat16', Uint16Array.of(0x3fc0, 0xc000), float32([1.5, -2], [2])],
    ['Half', Uint16Array.of(0x3e00, 0xc000), float32([1.5, -2], [2])],
    ['Double', Float64Array.of(1.5, -2), float32([1.5, -2], [2])],
    ['Long', BigInt64Array.of(-3n, 2n ** 40n), int64([-3, 2 ** 40], [2])],
    ['Int', Int32Array.of(-3, 4), { dtype: 'int32', dims: [2], data: Int32Array.of(-3, 4) }],
    ['Short', Int16Array.of(-3, 4), { dtype: 'int32', dims: [2], data: Int32Array.of(-3, 4) }],
    ['Char', Int8Array.of(-3, 4), { dtype: 'int8', dims: [2], data: Int8Array.of(-3, 4) }],
    ['Byte', Uint8Array.of(3, 4), { dtype: 'uint8', dims: [2], data: Uint8Array.of(3, 4) }],
    ['Bool', Uint8Array.of(1, 0), { dtype: 'bool', dims: [2], data: Uint8Array.of(1, 0) }],
  ] as const)('%s', async ([type, stored, expected]) => {
    expect(
      await readTensor(pth(dictionary({ w: tensor(storage(type, '0', 2), 0, [2], [1]) }), { 0: bytesOf(stored) })),
    ).toEqual(expected)
  })

  test('scalars, empty tensors, and a tensor alone', async () => {
    const of = storage('Float', '0', 6)
    expect(await readTensor(pth(dictionary({ w: tensor(of, 2, [], []) }), { 0: six }))).toEqual(float32([2], []))
    expect(await readTensor(pth(dictionary({ w: tensor(of, 0, [0, 3], [3, 1]) }), { 0: six }))).toEqual(
      float32([], [0, 3]),
    )
    expect(await readBytes(pth(tensor(of, 0, [1], [1]), { 0: six }))).toEqual({ 0: float32([0], [1]) })
  })

  test('ordered dictionaries with attributes, lists, and plain data beside the tensors', async () => {
    const empty = call(global('collections', 'OrderedDict'))
    const filled = {
      raw: concatenated(
        empty.raw,
        pickleBody('epoch', 3),
        utf8('s'),
        pickleBody(dictionary({ _metadata: 1 })),
        utf8('b'),
      ),
    }
    await using file = await openPth(
      await temporaryFile(
        'model.pth',
        pth(
          dictionary({
            state: filled,
            list: [1, 'two', 2 ** 40, 0.5, null, true],
            pair: call(global('collections', 'OrderedDict'), [tuple('k', -7)]),
          }),
        ),
      ),
    )
    expect(file.root.get('state')).toEqual(new Map([['epoch', 3]]))
    expect(file.root.get('list')).toEqual(
      new Map<string, unknown>([
        ['0', 1],
        ['1', 'two'],
        ['2', 2 ** 40],
        ['3', 0.5],
        ['4', null],
        ['5', true],
      ]),
    )
    expect(file.root.get('pair')).toEqual(new Map([['k', -7]]))
  })

  test('a key named __proto__ is a key', async () => {
    const record = await readBytes(
      pth({ pairs: [['__proto__', tensor(storage('Float', '0', 1), 0, [1], [1])]] }, { 0: six }),
    )
    expect(Object.keys(record)).toEqual(['__proto__'])
    expect(Object.getPrototypeOf({}).data).toBeUndefined()
  })
})

describe('a pickle cannot run anything', () => {
  const marker = 'touch /tmp/ran'
  test.for([
    ['os', 'system'],
    ['posix', 'system'],
    ['builtins', 'eval'],
    ['builtins', 'getattr'],
    ['subprocess', 'Popen'],
    ['torch', 'load'],
    ['torch._utils', '_rebuild_tensor'],
    ['collections', 'defaultdict'],
    ['', 'constructor'],
    ['__proto__', 'toString'],
  ] as const)('%s.%s is refused by name, called or not', async ([module, name]) => {
    const pattern = new RegExp(`asks to run "${module}\\.${name}", which is not allowed`)
    await expectClaraError(readBytes(pth(call(global(module, name), marker))), pattern)
    await expectClaraError(readBytes(pth(dictionary({ w: global(module, name) }))), pattern)
    const onStack = { raw: concatenated(pickleBody(module, name), [0x93]) }
    await expectClaraError(readBytes(pth(onStack)), pattern)
  })

  test('instructions that build objects do not exist', async () => {
    // OBJ, NEWOBJ, NEWOBJ_EX, EXT1, PERSID, REDUCE of data, BUILD of data
    for (const code of [0x6f, 0x81, 0x92, 0x82, 0x50]) {
      await expectClaraError(
        readBytes(pth({ raw: Uint8Array.of(0x4e, code, 10, 10) })),
        new RegExp(`instruction 0x${code.toString(16)} is not allowed`),
      )
    }
    await expectClaraError(
      readBytes(pth({ raw: concatenated(pickleBody('text', tuple()), utf8('R')) })),
      /call of what is no function/,
    )
    await expectClaraError(
      readBytes(pth({ raw: concatenated(pickleBody('text', null), utf8('b')) })),
      /attributes for what is no dictionary/,
    )
  })

  test('what an old instance would be of is named', async () => {
    await expectClaraError(readBytes(pth({ raw: utf8('(ios\nsystem\n') })), /asks to run "os\.system"/)
    await expectClaraError(readBytes(pth({ raw: utf8('(icollections\nOrderedDict\n') })), /an instance of a class/)
  })

  test('a storage type is no function, and a storage no value', async () => {
    await expectClaraError(readBytes(pth(call(global('torch', 'FloatStorage'), 3))), /calls "torch.FloatStorage"/)
    await expectClaraError(
      readBytes(pth(dictionary({ w: storage('Float', '0', 1) }), { 0: six })),
      /neither tensor nor plain data at "w"/,
    )
    await expectClaraError(
      readBytes(pth({ raw: concatenated(pickleBody('key'), utf8('Q')) })),
      /refers to something that is no storage/,
    )
  })

  test('a dictionary that contains itself, and one that contains another many times over, end', async () => {
    const cycle = { raw: concatenated(utf8('}q'), [0], pickleBody('again'), utf8('h'), [0], utf8('s')) }
    await expectClaraError(readBytes(pth(cycle)), /nests dictionaries deeper than 8/)
    const layer = (body: Uint8Array) =>
      concatenated(body, utf8('q'), [1], utf8('0]('), ...Array(60).fill(concatenated(utf8('h'), [1])), utf8('e'))
    await expectClaraError(
      readBytes(pth({ raw: layer(layer(layer(layer(layer(utf8('N')))))) })),
      /holds more than 1048576 values/,
    )
  })

  test('endless instructions end', async () => {
    await expectClaraError(
      readBytes(zip([{ name: 'a/data.pkl', bytes: new Uint8Array(3_000_000).fill(0x7d) }])),
      /more than 2000000 instructions/,
    )
  })

  test.for([
    ['cut short', concatenated([0x80, 2], utf8('X'), uint32(2 ** 31))],
    ['a length of 2^63', concatenated([0x80, 2, 0x8d], uint64(2n ** 63n))],
    ['without end', Uint8Array.of(0x80, 2, 0x4e)],
    ['an empty stack', utf8('.')],
    ['a mark as the value', utf8('(.')],
    ['a memo never set', utf8('h\x05.')],
    ['a tuple without its mark', utf8('Nt.')],
    ['items for a number', utf8('K\x01K\x02a.')],
    ['a key without a value', utf8('}(Nu.')],
    ['protocol 9', Uint8Array.of(0x80, 9)],
    ['a string that is not UTF-8', Uint8Array.of(0x8c, 1, 0xff, 0x2e)],
    ['an integer of 4 GB', concatenated([0x8b], uint32(2 ** 32 - 1))],
    ['a global without its line', utf8('cos')],
  ] as const)('malformed: %s', async ([, bytes]) => {
    await expectClaraError(readBytes(zip([{ name: 'a/data.pkl', bytes }])), /pickle in ".*" is malformed/)
  })

  test('any bytes give a value or an error for the user', async () => {
    const base = pickle(dictionary({ w: tensor(storage('Float', '0', 6), 0, [2, 3], [3, 1]) }))
    await fc.assert(
      fc.asyncProperty(fc.nat(base.length - 1), fc.integer({ min: 0, max: 255 }), async (at, byte) => {
        const bytes = base.slice()
        bytes[at] = byte
        const outcome = await readBytes(
          zip([
            { name: 'a/data.pkl', bytes },
            { name: 'a/data/0', bytes: six },
          ]),
        ).catch((error: unknown) => error)
        expect(outcome instanceof ClaraError || !(outcome instanceof Error)).toBe(true)
      }),
      { numRuns: 400 },
    )
  })
})

describe('sizes are checked before memory is taken', () => {
  const of = storage('Float', '0', 6)
  test.for([
    ['larger than the storage', tensor(of, 0, [7], [1])],
    ['an offset beyond', tensor(of, 5, [2], [1])],
    ['strides that lead beyond', tensor(of, 0, [2, 3], [4, 1])],
    ['elements repeated without end', tensor(of, 0, [2 ** 40], [0])],
    ['a product that overflows', tensor(of, 0, [2 ** 40, 2 ** 40], [1, 1])],
    ['a storage that claims more than its entry', tensor(storage('Float', '0', 2 ** 40), 0, [100], [1])],
  ] as const)('%s', async ([, value]) => {
    await expectClaraError(
      readBytes(pth(dictionary({ w: value }), { 0: six })),
      /Tensor "w".*does not fit its storage.*at most 6 elements/,
    )
  })

  test('senseless numbers and a missing storage', async () => {
    await expectClaraError(
      readBytes(pth(dictionary({ w: tensor(of, -1, [1], [1]) }), { 0: six })),
      /tensor that makes no sense/,
    )
    await expectClaraError(
      readBytes(pth(dictionary({ w: tensor(of, 0, [-1], [1]) }), { 0: six })),
      /tensor that makes no sense/,
    )
    await expectClaraError(
      readBytes(pth(dictionary({ w: tensor(of, 0, [1, 1], [1]) }), { 0: six })),
      /tensor that makes no sense/,
    )
    await expectClaraError(
      readBytes(pth(dictionary({ w: tensor(of, 0, [1], [1]) }))),
      /lacks the storage "0" of tensor "w"/,
    )
  })

  test('many tensors on one storage do not multiply into endless memory', async () => {
    const large = new Uint8Array(4 * 100_000)
    const tensors = Object.fromEntries(
      Array.from({ length: 20 }, (_, i) => [`w${i}`, tensor(storage('Float', '0', 100_000), 0, [100_000], [1])]),
    )
    await expectClaraError(readBytes(pth(dictionary(tensors), { 0: large })), /more than 16 times larger than the file/)
  })
})

/** The instructions that push these values. */
function pickleBody(...values: Parameters<typeof pickle>[0][]): Uint8Array {
  return concatenated(...values.map((value) => pickle(value).slice(2, -1)))
}
