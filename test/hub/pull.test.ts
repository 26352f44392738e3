import { lstat, mkdir, readdir, readFile, readlink, realpath, rm, symlink, utimes, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { downloadFileToCacheDir, scanCachedRepo } from '@huggingface/hub'
import { expect, test } from 'vitest'
import { findInCache } from '../../src/hub/cache.ts'
import type { PullProgress } from '../../src/hub/pull.ts'
import {
  adapters,
  baseRepository,
  checkpointConfig,
  checkpointRepository,
  commitA,
  commitB,
  expectClaraError,
  gitSha1,
  hashOf,
  isTransferOf,
  newSetting,
  type Setting,
  sha256,
  someBytes,
  tables,
  temporaryFolder,
  text,
} from './server.ts'

const checkpoint = { subfolder: 'compression-16' }

/** Paths of everything below a folder that is no folder, sorted. */
async function tree(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort()
}

test('a checkpoint comes into the shared layout: contents by hash, relative links, the branch; and only what is needed', async () => {
  const { hub, cacheFolder, pull } = await newSetting()
  const pulled = await pull('org/clara', checkpoint)

  const small = [checkpointConfig('org/base'), text('{}')]
  const model = join(cacheFolder, 'models--org--clara')
  const snapshot = `snapshots/${commitA}/compression-16`
  expect(await tree(model)).toEqual(
    [
      ...[...small.map(gitSha1), sha256(adapters), sha256(tables)].map((hash) => `blobs/${hash}`),
      'refs/main',
      ...['adapters.pth', 'config.json', 'decoder_first_last_layers.pth', 'tokenizer.json'].map(
        (file) => `${snapshot}/${file}`,
      ),
    ].sort(),
  )
  expect(await readlink(join(model, snapshot, 'adapters.pth'))).toBe(`../../../blobs/${sha256(adapters)}`)
  expect(await readFile(join(model, snapshot, 'adapters.pth'))).toEqual(Buffer.from(adapters))
  expect(await readFile(join(model, snapshot, 'config.json'))).toEqual(Buffer.from(checkpointConfig('org/base')))
  expect(await readFile(join(model, 'refs/main'), 'utf8')).toBe(commitA)
  expect(await tree(join(cacheFolder, '.locks'))).toEqual([])

  expect(pulled).toMatchObject({
    name: 'org/clara',
    revision: 'main',
    commit: commitA,
    folder: join(model, snapshot),
    kind: 'checkpoint',
    base: { decoderModelName: 'org/base', hubName: 'org/base' },
  })
  expect(pulled.files.every(({ fetched }) => fetched)).toBe(true)
  expect(hub.seen.every(({ authorization }) => authorization === undefined)).toBe(true)
})

test('another tool finds what was pulled, without asking the hub', async () => {
  const { cacheFolder, pull } = await newSetting()
  const { folder } = await pull('org/clara', checkpoint)
  const base = await pull('org/base')
  const scanned = await scanCachedRepo(join(cacheFolder, 'models--org--base'))
  expect(scanned.revisions).toMatchObject([{ commitOid: commitB, refs: ['main'] }])
  expect(scanned.size).toBe(base.files.reduce((sum, { size }) => sum + size, 0))
  const unreachable = () => Promise.reject(new Error('a request was made'))
  const path = 'compression-16/adapters.pth'
  const found = await downloadFileToCacheDir({
    repo: 'org/clara',
    revision: commitA,
    path,
    cacheDir: cacheFolder,
    fetch: unreachable,
  })
  expect(found).toBe(join(folder, 'adapters.pth'))
})

test('of a base model come settings, tokenizer and the shards of its index, from every page of the listing', async () => {
  const { hub, pull } = await newSetting()
  hub.pageSize = 3
  const { files, kind, folder, base } = await pull('org/base')
  expect({ kind, base }).toEqual({ kind: 'model', base: undefined })
  const expected = [...baseRepository().files.keys()].filter((path) => !/README|consolidated|\.bin$/.test(path))
  expect(files.map(({ path }) => path).sort()).toEqual(expected.sort())
  for (const path of expected) {
    expect(await readFile(join(folder, path))).toEqual(Buffer.from(baseRepository().files.get(path) ?? []))
  }
})

test('a model in one file comes with that file', async () => {
  const { hub, pull } = await newSetting()
  const files = new Map([
    ['config.json', text('{}')],
    ['model.safetensors', someBytes(300)],
    ['model.fp16.safetensors', someBytes(300, 2)],
  ])
  hub.repositories.set('tiny', { commit: commitA, files })
  const pulled = await pull('tiny')
  expect(pulled.files.map(({ path }) => path)).toEqual(['config.json', 'model.safetensors'])
})

test('a second pull fetches nothing but verifies everything, and repairs what was damaged since', async () => {
  const { hub, cacheFolder, pull } = await newSetting()
  await pull('org/clara', checkpoint)
  hub.seen.length = 0
  const again = await pull('org/clara', checkpoint)
  expect(again.files.some(({ fetched }) => fetched)).toBe(false)
  expect(hub.seen.map(({ path }) => path.split('?')[0])).toEqual([
    '/api/models/org/clara/revision/main',
    `/api/models/org/clara/tree/${commitA}`,
  ])

  const blob = join(cacheFolder, 'models--org--clara/blobs', sha256(adapters))
  const damaged = Uint8Array.from(adapters)
  damaged[2500] = (damaged[2500] ?? 0) ^ 1
  await writeFile(blob, damaged)
  const repaired = await pull('org/clara', checkpoint)
  expect(repaired.files.filter(({ fetched }) => fetched).map(({ path }) => path)).toEqual([
    'compression-16/adapters.pth',
  ])
  expect(await readFile(blob)).toEqual(Buffer.from(adapters))
})

test('a branch that moved: the new commit gets its own snapshot, the old one stays, unchanged contents are not fetched again', async () => {
  const { hub, cacheFolder, pull } = await newSetting()
  await pull('org/clara', checkpoint)
  const moved = checkpointRepository()
  moved.commit = commitB
  moved.files.set('compression-16/adapters.pth', someBytes(4000, 20))
  hub.repositories.set('org/clara', moved)
  const pulled = await pull('org/clara', checkpoint)
  expect(pulled.files.filter(({ fetched }) => fetched).map(({ path }) => path)).toEqual(['compression-16/adapters.pth'])
  const snapshots = join(cacheFolder, 'models--org--clara/snapshots')
  const read = (commit: string) => readFile(join(snapshots, commit, 'compression-16/adapters.pth'))
  expect(await read(commitA)).toEqual(Buffer.from(adapters))
  expect(await read(commitB)).toEqual(Buffer.from(someBytes(4000, 20)))
  expect(await readFile(join(cacheFolder, 'models--org--clara/refs/main'), 'utf8')).toBe(commitB)
})

test('a commit as revision is no branch: nothing is noted under refs', async () => {
  const { cacheFolder, pull, environment } = await newSetting()
  await pull('org/base', { revision: commitB })
  expect(await readdir(join(cacheFolder, 'models--org--base'))).not.toContain('refs')
  expect(await findInCache('org/base', { environment })).toBeUndefined()
  const found = await findInCache('org/base', { environment, revision: commitB })
  expect(found).toBe(join(cacheFolder, 'models--org--base/snapshots', commitB))
})

test('progress counts every byte of every file once, and ends at the total', async () => {
  const { pull } = await newSetting()
  const seen: PullProgress[] = []
  const { files } = await pull('org/clara', { ...checkpoint, onProgress: (progress) => void seen.push(progress) })
  const total = files.reduce((sum, { size }) => sum + size, 0)
  expect(seen.every((progress) => progress.total === total)).toBe(true)
  expect(seen.at(-1)).toMatchObject({ phase: 'done', done: total })
  const counts = seen.map(({ done }) => done)
  expect(counts).toEqual(counts.toSorted((one, other) => one - other))
  expect(seen.filter(({ phase }) => phase === 'done')).toHaveLength(files.length)
})

test('two pulls at once on one cache fetch each content once', async () => {
  const { hub, pull } = await newSetting()
  const phases = new Set<string>()
  const note = (progress: PullProgress) => void phases.add(progress.phase)
  const both = await Promise.all([
    pull('org/clara', { ...checkpoint, onProgress: note }),
    pull('org/clara', { ...checkpoint, onProgress: note }),
  ])
  expect(both[0].folder).toBe(both[1].folder)
  const transfers = hub.seen.filter(({ path }) => path.includes('/resolve/')).map(({ path }) => path)
  expect(transfers.length).toBe(4)
  expect(new Set(transfers).size).toBe(4)
  expect(phases).toContain('waiting')
  expect(await readFile(join(both[0].folder, 'adapters.pth'))).toEqual(Buffer.from(adapters))
})

test('two folders pulled at once share a content', async () => {
  const { pull } = await newSetting()
  const [one, other] = await Promise.all([
    pull('org/clara', checkpoint),
    pull('org/clara', { subfolder: 'compression-128' }),
  ])
  expect(await readFile(join(one.folder, 'decoder_first_last_layers.pth'))).toEqual(Buffer.from(tables))
  expect(await readFile(join(other.folder, 'decoder_first_last_layers.pth'))).toEqual(Buffer.from(tables))
})

test.each([
  ['a process that ended', '999999999'],
  ['a file without an owner, long silent', ''],
])('the lock of %s is taken over', async (_, pid) => {
  const { cacheFolder, pull } = await newSetting()
  await pull('org/clara', { subfolder: 'compression-128' })
  const lock = join(cacheFolder, '.locks/models--org--clara', `${sha256(adapters)}.clara`)
  await writeFile(lock, pid === '' ? '' : `${hostname()}\n${pid}\nsome-name\n`)
  if (pid === '') await utimes(lock, new Date(0), new Date(0))
  await pull('org/clara', checkpoint)
  expect(await tree(join(cacheFolder, '.locks'))).toEqual([])
})

test('without the files a checkpoint needs, the error says where they are', async () => {
  const { pull } = await newSetting()
  const where = /config\.json in compression-16, compression-128.*--subfolder compression-16/
  await expectClaraError(pull('org/clara'), /no model in org\/clara/, where)
  await expectClaraError(pull('org/clara', { subfolder: 'compression-8' }), /no model in folder "compression-8"/, where)
})

test.each([
  ['leads out', { a: '../../../../etc/passwd.safetensors' }, /names "\.\.\/\.\.\/.*beside it/],
  ['is absolute', { a: '/etc/x.safetensors' }, /names "\/etc\/x\.safetensors"/],
  ['is no file of weights', { a: 'config.json' }, /names "config\.json"/],
  ['is missing', { a: 'model-00003-of-00003.safetensors' }, /lacks "model-00003-of-00003\.safetensors".*incomplete/],
])('an index whose shard %s is refused', async (_, weightMap, pattern) => {
  const { hub, cacheFolder, pull } = await newSetting()
  const repository = baseRepository()
  repository.files.set('model.safetensors.index.json', text(JSON.stringify({ weight_map: weightMap })))
  hub.repositories.set('org/base', repository)
  await expectClaraError(pull('org/base'), pattern)
  expect(await readdir(join(cacheFolder, 'models--org--base'))).toEqual(['blobs'])
})

test.each([
  ['no JSON', 'weights'],
  ['another JSON', '{"weight_map": {"a": 1}}'],
])('an index that is %s is refused', async (_, content) => {
  const { hub, pull } = await newSetting()
  const repository = baseRepository()
  repository.files.set('model.safetensors.index.json', text(content))
  hub.repositories.set('org/base', repository)
  await expectClaraError(pull('org/base'), /no index of safetensors files/)
})

test('a model without safetensors is refused with what there is', async () => {
  const { hub, pull } = await newSetting()
  const files = new Map([
    ['config.json', text('{}')],
    ['pytorch_model.bin', someBytes(300)],
  ])
  hub.repositories.set('org/base', { commit: commitA, files })
  await expectClaraError(pull('org/base'), /no safetensors weights/, /Got config\.json, pytorch_model\.bin/)
})

test.each([
  ['a path that leads up', 'compression-16/../../../../evil'],
  ['an absolute path', '/etc/evil'],
  ['a path of another system', '..\\..\\evil'],
  ['a drive', 'C:/evil'],
  ['a path with a zero byte', 'compression-16/a\0b'],
])('a listing with %s is refused whole', async (_, path) => {
  const { hub, cacheFolder, pull } = await newSetting()
  const repository = checkpointRepository()
  repository.listing = (files) => [...files, { type: 'file', path, size: 3, oid: '3'.repeat(40) }]
  hub.repositories.set('org/clara', repository)
  await expectClaraError(pull('org/clara', checkpoint), /lists a file outside itself/, /Nothing was fetched/)
  await expect(readdir(cacheFolder)).rejects.toThrow(/ENOENT/)
})

test.each([
  ['compression-16/sub\u202etxt.safetensors'],
  ['compression-16/a:b.safetensors'],
  ['compression-16/nul.safetensors'],
  ['compression-16/ .safetensors'],
  ['compression-16/a\\b.safetensors'],
  ['compression-16/line\nend.safetensors'],
])('a needed file named %j is refused', async (path) => {
  const { hub, cacheFolder, pull } = await newSetting()
  const repository = checkpointRepository()
  repository.files.set(path, someBytes(500))
  repository.files.delete('compression-16/adapters.pth')
  hub.repositories.set('org/clara', repository)
  await expectClaraError(pull('org/clara', checkpoint), /a file whose name is refused/)
  await expect(readdir(cacheFolder)).rejects.toThrow(/ENOENT/)
})

test.each([
  ['no hash', { oid: undefined }],
  ['a hash that is a path', { oid: '../../../../../../../../../../../tmp/evil' }],
  ['a large file without hash', { lfs: { size: 3 } }],
  ['a negative size', { size: -1 }],
  ['a size that is no number', { size: '5' }],
])('a listing with %s is not believed', async (_, change) => {
  const { hub, pull } = await newSetting()
  const repository = checkpointRepository()
  repository.listing = (files) => files.map((file) => ({ ...file, ...change }))
  hub.repositories.set('org/clara', repository)
  await expectClaraError(pull('org/clara', checkpoint), /does not answer as a hub does/)
})

/** The cache with one place a link to a folder outside. */
async function withLinkAt(setting: Setting, place: string): Promise<string> {
  const outside = await temporaryFolder()
  const path = join(setting.cacheFolder, place)
  await mkdir(join(path, '..'), { recursive: true })
  await symlink(outside, path)
  return outside
}

test.each([
  ['models--org--clara'],
  ['models--org--clara/blobs'],
  ['models--org--clara/snapshots'],
  [`models--org--clara/snapshots/${commitA}`],
  [`models--org--clara/snapshots/${commitA}/compression-16`],
  ['models--org--clara/refs'],
  ['.locks'],
])('a link out of the cache at %s is not followed', async (place) => {
  const setting = await newSetting()
  const outside = await withLinkAt(setting, place)
  await expectClaraError(setting.pull('org/clara', checkpoint), /leads out of the cache/, /HF_HUB_CACHE/)
  expect(await readdir(outside)).toEqual([])
})

test('links in the place of contents are replaced, never written through', async () => {
  const setting = await newSetting()
  const { cacheFolder, pull } = setting
  await pull('org/clara', { subfolder: 'compression-128' })
  const outside = join(await temporaryFolder(), 'precious')
  await writeFile(outside, 'precious')
  const blobs = join(cacheFolder, 'models--org--clara/blobs')
  await symlink(outside, join(blobs, `${sha256(adapters)}.clara-incomplete`))
  await symlink(outside, join(blobs, `${sha256(adapters)}`))
  const { folder } = await pull('org/clara', checkpoint)
  expect(await readFile(outside, 'utf8')).toBe('precious')
  expect((await lstat(join(blobs, sha256(adapters)))).isFile()).toBe(true)
  expect(await readFile(join(folder, 'adapters.pth'))).toEqual(Buffer.from(adapters))
})

test('a link in a snapshot that points elsewhere is corrected', async () => {
  const { cacheFolder, pull } = await newSetting()
  const { folder } = await pull('org/clara', checkpoint)
  await rm(join(folder, 'adapters.pth'))
  await symlink('/etc/passwd', join(folder, 'adapters.pth'))
  await pull('org/clara', checkpoint)
  const real = await realpath(join(folder, 'adapters.pth'))
  expect(real).toBe(await realpath(join(cacheFolder, 'models--org--clara/blobs', sha256(adapters))))
})

test.each([
  ['../evil', {}],
  ['org/../evil', {}],
  ['/etc/passwd', {}],
  ['org/name/more', {}],
  ['a--b', {}],
  ['org\\name', {}],
  ['', {}],
])('%j is no name on the hub, and nobody is asked', async (name, options) => {
  const { hub, pull } = await newSetting()
  await expectClaraError(pull(name, options), /no name of a model on the hub/)
  expect(hub.seen).toEqual([])
})

test.each([
  [{ revision: '../../x' }, /no revision/],
  [{ revision: 'a/../b' }, /no revision/],
  [{ revision: '/x' }, /no revision/],
  [{ revision: '.hidden' }, /no revision/],
  [{ subfolder: '../x' }, /no folder of a repository/],
  [{ subfolder: '/x' }, /no folder of a repository/],
  [{ subfolder: 'a\\b' }, /no folder of a repository/],
])('%j is refused before anybody is asked', async (options, pattern) => {
  const { hub, pull } = await newSetting()
  await expectClaraError(pull('org/clara', options), pattern)
  expect(hub.seen).toEqual([])
})

test('an empty file is a file', async () => {
  const { hub, pull } = await newSetting()
  const repository = checkpointRepository()
  repository.files.set('compression-16/merges.txt', new Uint8Array(0))
  hub.repositories.set('org/clara', repository)
  const { folder } = await pull('org/clara', checkpoint)
  expect(await readFile(join(folder, 'merges.txt'), 'utf8')).toBe('')
  expect(hashOf(new Uint8Array(0))).toBe('e69de29bb2d1d6434b8b29ae775ad8c2e48c5391')
})

test('an aborted pull rejects with the reason, keeps what arrived, and shows no model', async () => {
  const { hub, cacheFolder, pull, environment } = await newSetting()
  hub.misbehave = (request) => (isTransferOf(adapters)(request) ? { stallAfter: 2000 } : undefined)
  const interrupt = new AbortController()
  const reason = new Error('enough')
  const pulling = pull('org/clara', {
    ...checkpoint,
    signal: interrupt.signal,
    // The largest file comes last.
    onProgress: ({ done, total }) => {
      if (done === total - adapters.length + 2000) interrupt.abort(reason)
    },
  })
  await expect(pulling).rejects.toBe(reason)
  const blobs = await readdir(join(cacheFolder, 'models--org--clara/blobs'))
  expect(blobs).toContain(`${sha256(adapters)}.clara-incomplete`)
  expect(blobs).not.toContain(sha256(adapters))
  expect(await findInCache('org/clara', { ...checkpoint, environment })).toBeUndefined()
  expect(await tree(join(cacheFolder, '.locks'))).toEqual([])
  hub.misbehave = () => undefined
  await pull('org/clara', checkpoint)
  expect(hub.seen.at(-1)?.range).toBe('bytes=2000-')
})
