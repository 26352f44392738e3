import { mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { openSafetensors, writeSafetensors } from '../../src/checkpoint/safetensors.ts'
import { gatherRows } from '../../src/checkpoint/stored-tensor.ts'
import { cachedTensors, cacheFolder, type TensorCachePlan } from '../../src/checkpoint/tensor-cache.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'

const values = float32([1, 2, 3, 4, 5, 6], [3, 2])
const bytes: HostTensor = { dtype: 'uint8', dims: [4], data: Uint8Array.of(9, 8, 7, 6) }

let folder: string
let notices: string[]
let made: number
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clara-cache-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  notices = []
  made = 0
})

const plan = (changes: Partial<TensorCachePlan> = {}): TensorCachePlan => ({
  path: join(folder, 'inner', 'model-int4.safetensors'),
  source: 'one state',
  tensors: [
    { name: 'values', dtype: 'float32', dims: [3, 2] },
    { name: 'bytes', dtype: 'uint8', dims: [4] },
  ],
  onNotice: (message) => notices.push(message),
  ...changes,
})

const make = async () => {
  made += 1
  return {
    facts: { fingerprint: 'abc' },
    tensors: (async function* () {
      yield values
      yield bytes
    })(),
  }
}

/** Opens the cache and checks what is in it. */
async function expectRight(given: TensorCachePlan): Promise<void> {
  const { tensors, facts } = await cachedTensors(given, make)
  expect(facts.get('fingerprint')).toBe('abc')
  const table = tensors.get('values')
  if (!table) throw new Error('no values')
  expect([...(await gatherRows(table, [2, 0]))]).toEqual([5, 6, 1, 2])
}

describe('a cache of tensors', () => {
  test('is made once and read from then on', async () => {
    await expectRight(plan())
    await expectRight(plan())
    expect(made).toBe(1)
    expect(notices).toEqual([expect.stringMatching(/^writing ".*model-int4.safetensors", which later starts/)])
  })

  test('whose making fails leaves nothing that could be taken for it', async () => {
    const failing = async () => ({
      facts: {},
      tensors: (async function* () {
        yield values
        throw new Error('interrupted')
      })(),
    })
    await expect(cachedTensors(plan(), failing)).rejects.toThrow('interrupted')
    expect(await readdir(join(folder, 'inner'))).toEqual([])
    await expectRight(plan())
  })

  test('removes what a killed making has left, and leaves that of a running one', async () => {
    const inner = join(folder, 'inner')
    await mkdir(inner)
    const [dead, alive] = [
      '.model-int4.safetensors.999999999.abc.tmp',
      `.model-int4.safetensors.${process.pid}.abc.tmp`,
    ]
    const other = '.other.safetensors.999999999.abc.tmp'
    for (const name of [dead, alive, other]) await writeFile(join(inner, name), 'part')
    await expectRight(plan())
    expect((await readdir(inner)).sort()).toEqual([alive, other, 'model-int4.safetensors'].sort())
  })

  test.each([
    ['of another source', (path: string) => rewrite(path, { source: 'another state' }), /the model .* has changed/],
    ['of another version', (path: string) => rewrite(path, { version: '0' }), /another version/],
    ['that is something else', (path: string) => rewrite(path, { format: 'x' }), /no cache of ours/],
    ['that is cut off', async (path: string) => truncate(path, (await stat(path)).size - 3), /again: .*truncated/],
    ['that is empty', (path: string) => truncate(path, 0), /again: /],
    ['that is noise', (path: string) => writeFile(path, 'no tensors at all'), /again: /],
    [
      'with other tensors',
      (path: string) => writeSafetensors(path, new Map([['values', values]]), right),
      /no uint8 tensor 'bytes'/,
    ],
  ])('%s is made again, and says so', async (_, damage, why) => {
    await expectRight(plan())
    await damage(plan().path)
    await expectRight(plan())
    expect(made).toBe(2)
    expect(notices[1]).toMatch(why)
    await expectRight(plan())
    expect(made).toBe(2)
  })

  test('in a folder that cannot be made names the setting', async () => {
    await writeFile(join(folder, 'inner'), 'a file')
    await expect(cachedTensors(plan(), make)).rejects.toThrow(/cannot be made.*CLARA_CACHE/)
  })
})

const right = { format: 'clara-ts cache', version: '1', source: 'one state', fingerprint: 'abc' }

async function rewrite(path: string, changes: Record<string, string>): Promise<void> {
  const tensors = new Map<string, HostTensor>()
  {
    await using file = await openSafetensors(path)
    for (const name of file.tensors.keys()) tensors.set(name, await file.read(name))
  }
  await writeSafetensors(path, tensors, { ...right, ...changes })
  expect((await readFile(path)).length).toBeGreaterThan(0)
}

test('the folder follows CLARA_CACHE, then XDG_CACHE_HOME, then the home folder', () => {
  expect(cacheFolder({ CLARA_CACHE: '/a', XDG_CACHE_HOME: '/b' })).toBe('/a')
  expect(cacheFolder({ XDG_CACHE_HOME: '/b' })).toBe(join('/b', 'clara-ts'))
  expect(cacheFolder({})).toMatch(/\.cache.clara-ts$/)
})
