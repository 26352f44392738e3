import { mkdir, rm, symlink, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join, resolve, sep } from 'node:path'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { findInCache } from '../../src/hub/cache.ts'
import { baseOnHub, isHubName, isRevision, isSafePath, leadsOut } from '../../src/hub/names.ts'
import { type Environment, hubSettings } from '../../src/hub/settings.ts'
import { createDigest } from '../../src/hub/verify.ts'
import { commitA, temporaryFolder } from './server.ts'

/** A cache as another tool leaves it: one model, a config.json at the top and one in a folder. */
async function foreignCache(name: string): Promise<{ environment: Environment; snapshot: string }> {
  const cache = await temporaryFolder()
  const model = join(cache, `models--${name}`)
  const snapshot = join(model, 'snapshots', commitA)
  await mkdir(join(snapshot, 'compression-16'), { recursive: true })
  await mkdir(join(model, 'blobs'))
  await mkdir(join(model, 'refs', 'refs', 'pr'), { recursive: true })
  await writeFile(join(model, 'blobs', 'abc'), '{}')
  await writeFile(join(model, 'refs', 'main'), `${commitA}\n`)
  await writeFile(join(model, 'refs', 'refs', 'pr', '1'), commitA)
  await symlink('../../blobs/abc', join(snapshot, 'config.json'))
  await writeFile(join(snapshot, 'compression-16', 'config.json'), '{}')
  return { environment: { HF_HUB_CACHE: cache }, snapshot }
}

test('a model that another tool fetched is found: by branch, by pull request, by commit, in a folder', async () => {
  const { environment, snapshot } = await foreignCache('org--name')
  expect(await findInCache('org/name', { environment })).toBe(snapshot)
  expect(await findInCache('org/name', { environment, revision: 'refs/pr/1' })).toBe(snapshot)
  expect(await findInCache('org/name', { environment, revision: commitA })).toBe(snapshot)
  const folder = join(snapshot, 'compression-16')
  expect(await findInCache('org/name', { environment, subfolder: 'compression-16' })).toBe(folder)
})

test.each([
  ['another model', 'org/other', {}],
  ['another branch', 'org/name', { revision: 'v2' }],
  ['another commit', 'org/name', { revision: 'b'.repeat(40) }],
  ['another folder', 'org/name', { subfolder: 'compression-128' }],
  ['a folder that leads out', 'org/name', { subfolder: `../${commitA}` }],
  ['a revision that leads out', 'org/name', { revision: '../refs/main' }],
  ['a name that leads out', '../models--org--name', {}],
  ['a local path', './org/name', {}],
])('%s is not found', async (_, name, query) => {
  const { environment } = await foreignCache('org--name')
  expect(await findInCache(name, { environment, ...query })).toBeUndefined()
})

test('a snapshot whose config.json has lost its content, or a branch that is no commit, is not found', async () => {
  const { environment, snapshot } = await foreignCache('org--name')
  await rm(join(snapshot, '../../blobs/abc'))
  expect(await findInCache('org/name', { environment })).toBeUndefined()
  await writeFile(join(snapshot, '../../refs/main'), '../../../../etc')
  expect(await findInCache('org/name', { environment, subfolder: 'compression-16' })).toBeUndefined()
})

test('the path of a training machine finds the base that it names; a path that names no known base finds nothing', async () => {
  const { environment, snapshot } = await foreignCache('mistralai--Mistral-7B-Instruct-v0.2')
  expect(await findInCache('/mnt/models/Mistral-7B-Instruct-v0.2', { environment })).toBe(snapshot)
  expect(baseOnHub('/mnt/models/Mistral-7B-Instruct-v0.2')).toBe('mistralai/Mistral-7B-Instruct-v0.2')
  expect(baseOnHub('C:\\models\\Phi-4-mini-instruct')).toBe('microsoft/Phi-4-mini-instruct')
  expect(baseOnHub('org/name')).toBe('org/name')
  for (const name of ['/mnt/models/gpt2', '../base', './base', '/mnt/constructor', '']) {
    expect(baseOnHub(name)).toBeUndefined()
  }
})

test.each<[Environment, string]>([
  [{}, join(homedir(), '.cache/huggingface/hub')],
  [{ XDG_CACHE_HOME: '/x' }, '/x/huggingface/hub'],
  [{ XDG_CACHE_HOME: '/x', HF_HOME: '/h' }, '/h/hub'],
  [{ HF_HOME: '~/h' }, join(homedir(), 'h/hub')],
  [{ HF_HOME: '/h', HUGGINGFACE_HUB_CACHE: '/old' }, '/old'],
  [{ HF_HOME: '/h', HUGGINGFACE_HUB_CACHE: '/old', HF_HUB_CACHE: '/c' }, '/c'],
  [{ HF_HUB_CACHE: '', HF_HOME: ' ' }, join(homedir(), '.cache/huggingface/hub')],
  [{ HF_HUB_CACHE: 'here' }, resolve('here')],
])('%j means the cache %s', (environment, folder) => {
  expect(hubSettings(environment).cacheFolder).toBe(resolve(folder))
})

test('endpoint, token and offline come from the environment', () => {
  expect(hubSettings({})).toMatchObject({ endpoint: 'https://huggingface.co', token: undefined, offline: false })
  const set = { HF_ENDPOINT: 'https://mirror.example/hub//', HF_TOKEN: ' hf_x\n', HF_HUB_OFFLINE: 'True' }
  expect(hubSettings(set)).toMatchObject({ endpoint: 'https://mirror.example/hub', token: 'hf_x', offline: true })
})

test.each([
  [{ HF_ENDPOINT: 'huggingface.co' }, /HF_ENDPOINT is no address/],
  [{ HF_ENDPOINT: 'file:///models' }, /HF_ENDPOINT is no address/],
  [{ HF_ENDPOINT: 'https://me:secret@mirror.example' }, /HF_ENDPOINT is no address/],
  [{ HF_TOKEN: 'secret two' }, /HF_TOKEN holds characters/],
  [{ HF_TOKEN: 'secret\u00e9' }, /HF_TOKEN holds characters/],
  [{ HF_TOKEN: 'secret\r\nX-Header: 1' }, /HF_TOKEN holds characters/],
])('%j is refused, and no secret shown', (environment, pattern) => {
  expect(() => hubSettings(environment)).toThrow(pattern)
  expect(() => hubSettings(environment)).not.toThrow(/secret/)
})

test('a safe path stays in its folder and is a different file from every other', () => {
  const part = fc.oneof(
    fc.constantFrom('..', '.', '', 'a', 'con', 'a.', ' a', 'C:', '...'),
    fc.string({ maxLength: 8 }),
    fc.string({ unit: 'binary', maxLength: 4 }),
  )
  fc.assert(
    fc.property(fc.array(part, { maxLength: 4 }), fc.constantFrom('/', '\\'), (parts, separator) => {
      const path = parts.join(separator)
      if (!isSafePath(path)) return
      const full = resolve(`${sep}cache`, path)
      expect(full.startsWith(`${sep}cache${sep}`)).toBe(true)
      expect(full.slice(`${sep}cache${sep}`.length)).toBe(path)
      expect(path).not.toMatch(/[\\:*?"<>|\p{C}]/u)
      expect(leadsOut(path)).toBe(false)
    }),
    { numRuns: 500 },
  )
})

test.each(['config.json', 'compression-16/adapters.pth', '.gitattributes', 'a b (1)[2].txt', 'console/nul_.json'])(
  '%j is a safe path',
  (path) => expect(isSafePath(path)).toBe(true),
)

test.each(['', '/', 'a//b', 'a/', './a', 'a/../b', 'CON', 'a/nul.txt', 'Com1', 'a.', 'a /b', 'ü', 'a\tb', '~/a'])(
  '%j is no safe path',
  (path) => expect(isSafePath(path)).toBe(false),
)

test.each(['main', 'v1.0', 'refs/pr/3', 'feature/new_thing', commitA])('%j is a revision', (text) =>
  expect(isRevision(text)).toBe(true),
)

test.each(['', '..', '../main', 'a/../b', '/a', 'a/', 'a b', '.a', 'a\\b', 'a?b', 'a%2e'])(
  '%j is no revision',
  (text) => expect(isRevision(text)).toBe(false),
)

test.each(['gpt2', 'apple/CLaRa-7B-Instruct', 'a/b', 'Org_1/x.y-z'])('%j is a name on the hub', (text) =>
  expect(isHubName(text)).toBe(true),
)

test('hashes are those of sha256sum and git hash-object', () => {
  const hex = (algorithm: 'sha256' | 'git-sha1', text: string) => {
    const digest = createDigest(algorithm, text.length)
    for (const character of text) digest.update(new TextEncoder().encode(character))
    return digest.hex()
  }
  expect(hex('sha256', 'abc')).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
  expect(hex('git-sha1', 'hello\n')).toBe('ce013625030ba8dba906f756967f9e9ca394464a')
})
