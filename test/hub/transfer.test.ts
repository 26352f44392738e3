/** What a pull does when the transfer goes wrong: cuts, stalls, damage, servers without ranges, contents that change. */
import { statSync } from 'node:fs'
import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { ClaraError } from '../../src/errors.ts'
import { findInCache } from '../../src/hub/cache.ts'
import {
  adapters,
  checkpointRepository,
  expectClaraError,
  inTurn,
  isTransferOf,
  type Misdeed,
  newSetting,
  patience,
  type Setting,
  settingWith,
  sha256,
  someBytes,
  startHub,
} from './server.ts'

const checkpoint = { subfolder: 'compression-16' }
const ofAdapters = isTransferOf(adapters)
const blobOf = ({ cacheFolder }: Setting) => join(cacheFolder, 'models--org--clara/blobs', sha256(adapters))
const partialOf = (setting: Setting) => `${blobOf(setting)}.clara-incomplete`
const ranges = ({ hub }: Setting) => hub.seen.filter(ofAdapters).map(({ range }) => range)

/** A cut that loses nothing: it waits until so many bytes in all are on the disk. */
const cutAt = (setting: Setting, cutAfter: number, inAll: number): Misdeed => ({
  cutAfter,
  until: async () => ((await stat(partialOf(setting)).catch(() => undefined))?.size ?? 0) >= inAll,
})

/** After a pull that failed: no content, no model, where a reader would look for them. */
async function expectNothingShown(setting: Setting): Promise<void> {
  const { cacheFolder, environment } = setting
  await expect(stat(blobOf(setting))).rejects.toThrow(/ENOENT/)
  expect(await readdir(join(cacheFolder, 'models--org--clara'))).not.toContain('snapshots')
  expect(await findInCache('org/clara', { ...checkpoint, environment })).toBeUndefined()
}

async function expectWhole(setting: Setting): Promise<void> {
  expect(await readFile(blobOf(setting))).toEqual(Buffer.from(adapters))
  await expect(stat(partialOf(setting))).rejects.toThrow(/ENOENT/)
}

test('connections that break are made again, each going on where the last one ended', async () => {
  const setting = await newSetting()
  setting.hub.misbehave = inTurn(ofAdapters, [
    cutAt(setting, 1000, 1000),
    cutAt(setting, 700, 1700),
    cutAt(setting, 1, 1701),
    cutAt(setting, 2000, 3701),
  ])
  await setting.pull('org/clara', checkpoint)
  // More breaks than attempts: each brought something, so each counts from one.
  expect(ranges(setting)).toEqual([undefined, 'bytes=1000-', 'bytes=1700-', 'bytes=1701-', 'bytes=3701-'])
  await expectWhole(setting)
})

test('a pull that gives up keeps what arrived, says so, and the next one goes on from there', async () => {
  const setting = await newSetting()
  const { hub, pull } = setting
  hub.misbehave = inTurn(ofAdapters, [cutAt(setting, 1234, 1234), { cutAfter: 0 }, { cutAfter: 0 }])
  const message = await expectClaraError(
    pull('org/clara', checkpoint),
    /connection to 127\.0\.0\.1:\d+ broke/,
    /1234 of 5000 bytes are kept/,
  )
  expect(message).not.toContain('signature=')
  await expectNothingShown(setting)
  expect(await readFile(partialOf(setting))).toEqual(Buffer.from(adapters.subarray(0, 1234)))

  hub.seen.length = 0
  await pull('org/clara', checkpoint)
  expect(ranges(setting)).toEqual(['bytes=1234-'])
  await expectWhole(setting)
})

test('a connection on which nothing comes any more counts as broken', async () => {
  const setting = await newSetting()
  const kept = () => statSync(partialOf(setting), { throwIfNoEntry: false })?.size ?? 0
  setting.hub.misbehave = (request) => (ofAdapters(request) && kept() < 1500 ? { stallAfter: 1500 } : undefined)
  await setting.pull('org/clara', { ...checkpoint, patience: { ...patience, attempts: 50, stallSeconds: 0.3 } })
  expect(ranges(setting).at(-1)).toBe('bytes=1500-')
  await expectWhole(setting)
})

test('a server that ignores ranges is read from the start', async () => {
  const setting = await newSetting()
  setting.hub.misbehave = inTurn(ofAdapters, [cutAt(setting, 1000, 1000), { ignoreRange: true }])
  await setting.pull('org/clara', checkpoint)
  expect(ranges(setting)).toEqual([undefined, 'bytes=1000-'])
  await expectWhole(setting)
})

test('a server that ignores ranges and always breaks off is given up, not asked forever', async () => {
  const setting = await newSetting()
  setting.hub.misbehave = (request) => {
    if (!ofAdapters(request)) return undefined
    // A cut of the whole file, whatever was asked for.
    return { status: 200, headers: { 'content-length': '5000', connection: 'close' }, body: 'x'.repeat(800) }
  }
  await expectClaraError(setting.pull('org/clara', checkpoint), /broke|damaged/)
  expect(ranges(setting).length).toBeLessThanOrEqual(6)
  await expectNothingShown(setting)
})

test.each<[string, Misdeed]>([
  ['another start', { status: 206, headers: { 'content-range': 'bytes 0-4999/5000' }, body: 'x'.repeat(5000) }],
  ['no range named', { status: 206, body: 'x'.repeat(4000) }],
  ['no rest to give', { status: 416 }],
])('an answer of another part than asked for (%s) is not used', async (_, misdeed) => {
  const setting = await newSetting()
  setting.hub.misbehave = inTurn(ofAdapters, [cutAt(setting, 1000, 1000), misdeed])
  await setting.pull('org/clara', checkpoint)
  expect(ranges(setting)).toEqual([undefined, 'bytes=1000-', undefined])
  await expectWhole(setting)
})

describe('damage', () => {
  const damaged = Uint8Array.from(adapters)
  damaged[4321] = (damaged[4321] ?? 0) ^ 4

  test('on the way is found out by the hash, and the file fetched again', async () => {
    const setting = await newSetting()
    setting.hub.misbehave = inTurn(ofAdapters, [{ content: damaged }])
    await setting.pull('org/clara', checkpoint)
    expect(ranges(setting)).toEqual([undefined, undefined])
    await expectWhole(setting)
  })

  test('that comes again is an error, and nothing of it stays', async () => {
    const setting = await newSetting()
    setting.hub.misbehave = (request) => (ofAdapters(request) ? { content: damaged } : undefined)
    await expectClaraError(
      setting.pull('org/clara', checkpoint),
      /arrived damaged, twice/,
      new RegExp(`Expected sha256 ${sha256(adapters)}.*Got ${sha256(damaged)}`),
    )
    await expectNothingShown(setting)
    await expect(stat(partialOf(setting))).rejects.toThrow(/ENOENT/)
  })

  test('of the kept part, or a kept part of something else, does no harm', async () => {
    const setting = await newSetting()
    await setting.pull('org/clara', { subfolder: 'compression-128' })
    await writeFile(partialOf(setting), someBytes(3000, 77))
    await setting.pull('org/clara', checkpoint)
    expect(ranges(setting)).toEqual(['bytes=3000-', undefined])
    await expectWhole(setting)
  })

  test.each([
    ['more than the file', someBytes(6000, 78), [undefined]],
    ['all of it', adapters, []],
    ['as much, but wrong', someBytes(5000, 79), [undefined]],
    ['nothing', new Uint8Array(0), [undefined]],
  ])('a kept part with %s', async (_, kept, expected) => {
    const setting = await newSetting()
    await setting.pull('org/clara', { subfolder: 'compression-128' })
    await writeFile(partialOf(setting), kept)
    await setting.pull('org/clara', checkpoint)
    expect(ranges(setting)).toEqual(expected)
    await expectWhole(setting)
  })

  test('of a small file is found out by git’s hash', async () => {
    const setting = await newSetting()
    setting.hub.misbehave = (request) =>
      request.path.endsWith('/compression-16/tokenizer.json') ? { status: 200, body: '[]' } : undefined
    await expectClaraError(setting.pull('org/clara', checkpoint), /arrived damaged, twice/, /git-sha1/)
    await expectNothingShown(setting)
  })
})

describe('a file that is not the listed one', () => {
  test('is refused by the hash that the hub names, before any byte', async () => {
    const setting = await newSetting()
    const { hub, pull } = setting
    hub.misbehave = inTurn(ofAdapters, [cutAt(setting, 1000, 1000), { cutAfter: 0 }, { cutAfter: 0 }])
    await expectClaraError(pull('org/clara', checkpoint), /are kept/)
    // Between the attempts the file changes, under the same commit.
    const unchanged = checkpointRepository()
    const changed = checkpointRepository()
    changed.files.set('compression-16/adapters.pth', someBytes(5000, 30))
    changed.listing = (files) =>
      files.map((file) =>
        file.path === 'compression-16/adapters.pth' ? { ...file, lfs: { oid: sha256(adapters), size: 5000 } } : file,
      )
    hub.repositories.set('org/clara', changed)
    hub.seen.length = 0
    await expectClaraError(
      pull('org/clara', checkpoint),
      /another content for "compression-16\/adapters\.pth"/,
      new RegExp(`Got hash ${sha256(someBytes(5000, 30))}`),
    )
    expect(hub.seen.filter(({ server, path }) => server === 'files' && !path.includes('adapters')).length).toBeLessThan(
      3,
    )
    await expectNothingShown(setting)
    // What was kept belongs to the listed content still.
    hub.repositories.set('org/clara', unchanged)
    hub.seen.length = 0
    await pull('org/clara', checkpoint)
    expect(ranges(setting)).toEqual(['bytes=1000-'])
    await expectWhole(setting)
  })

  test.each<[string, Misdeed, RegExp]>([
    ['a shorter file', { content: someBytes(4999, 31) }, /Got 4999 bytes/],
    ['a longer file', { content: someBytes(5001, 32) }, /Got 5001 bytes/],
    [
      'a body without length that does not end',
      { status: 200, headers: { 'transfer-encoding': 'chunked' }, body: 'x'.repeat(9000) },
      /more than the 5000 bytes listed/,
    ],
  ])('is refused by its size: %s', async (_, misdeed, pattern) => {
    const setting = await newSetting()
    setting.hub.misbehave = (request) => (ofAdapters(request) ? misdeed : undefined)
    await expectClaraError(setting.pull('org/clara', checkpoint), /another content/, pattern)
    await expectNothingShown(setting)
  })

  test('is refused when the hub serves another commit', async () => {
    const setting = await newSetting()
    setting.hub.misbehave = ({ path }) =>
      path.endsWith('tokenizer.json')
        ? { status: 200, headers: { 'x-repo-commit': 'c'.repeat(40) }, body: '{}' }
        : undefined
    await expectClaraError(setting.pull('org/clara', checkpoint), /Got commit cccc/)
  })
})

/** Makes every write to an open file fail as a full disk does. */
async function fillDisk(): Promise<() => void> {
  const { open } = await import('node:fs/promises')
  const handle = await open(import.meta.filename, 'r')
  const prototype = Object.getPrototypeOf(handle)
  await handle.close()
  const facts = { code: 'ENOSPC', syscall: 'write' }
  const full = Object.assign(new Error('ENOSPC: no space left on device, write'), facts)
  const spy = vi.spyOn(prototype, 'write').mockRejectedValue(full)
  onTestFinished(() => spy.mockRestore())
  return () => spy.mockRestore()
}

test('a disk that fills up: the error says so, and when there is room again the pull goes on', async () => {
  const setting = await newSetting()
  setting.hub.misbehave = inTurn(ofAdapters, [cutAt(setting, 1000, 1000), { cutAfter: 0 }, { cutAfter: 0 }])
  await expectClaraError(setting.pull('org/clara', checkpoint), /are kept/)
  const empty = await fillDisk()
  await expectClaraError(
    setting.pull('org/clara', checkpoint),
    /disk is full/,
    /What has arrived stays/,
    /HF_HUB_CACHE/,
  )
  await expectNothingShown(setting)
  empty()
  setting.hub.seen.length = 0
  await setting.pull('org/clara', checkpoint)
  expect(ranges(setting)).toEqual(['bytes=1000-'])
  await expectWhole(setting)
})

test('whatever goes wrong in whatever order, a content in the cache is whole', async () => {
  const hub = await startHub()
  const misdeed = fc.oneof(
    fc.constant<Misdeed>(undefined),
    fc.nat(5200).map((cutAfter): Misdeed => ({ cutAfter })),
    fc.constant<Misdeed>({ ignoreRange: true }),
    fc.nat(4999).map((at): Misdeed => {
      const content = Uint8Array.from(adapters)
      content[at] = (content[at] ?? 0) ^ 255
      return { content }
    }),
    fc.constantFrom(500, 503, 403, 404, 416, 429).map((status): Misdeed => ({ status })),
    fc.nat(5000).map((length): Misdeed => ({ content: someBytes(length, 50) })),
    fc.nat(6000).map(
      (length): Misdeed => ({
        status: 206,
        headers: { 'content-range': `bytes ${length}-4999/5000` },
        body: 'y'.repeat(100),
      }),
    ),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(fc.array(misdeed, { maxLength: 5 }), { minLength: 1, maxLength: 3 }), async (rounds) => {
      const setting = await settingWith(hub)
      for (const misdeeds of rounds) {
        setting.hub.misbehave = inTurn(ofAdapters, misdeeds)
        const error: unknown = await setting.pull('org/clara', checkpoint).then(
          () => undefined,
          (reason) => reason,
        )
        if (error === undefined) await expectWhole(setting)
        else {
          expect(error).toBeInstanceOf(ClaraError)
          await expectNothingShown(setting)
        }
        if (error === undefined) break
      }
      setting.hub.misbehave = () => undefined
      await setting.pull('org/clara', checkpoint)
      await expectWhole(setting)
    }),
    { numRuns: 15 },
  )
})
