/** A hub on this machine: the endpoints that a pull uses, and a second server with the large files, as the real one has. */
import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished } from 'vitest'
import { ClaraError } from '../../src/errors.ts'
import type { Patience } from '../../src/hub/http.ts'
import { type PulledModel, type PullOptions, pullModel } from '../../src/hub/pull.ts'

/** What a server does otherwise than it should, once. */
export type Misdeed =
  | { readonly status: number; readonly headers?: Readonly<Record<string, string>>; readonly body?: string }
  /** Ends the connection after so many bytes of the body, as soon as `until` tells. */
  | { readonly cutAfter: number; readonly until?: () => Promise<boolean> }
  /** Sends so many bytes of the body, then nothing. */
  | { readonly stallAfter: number }
  | { readonly ignoreRange: true }
  /** Sends these bytes for the file's. */
  | { readonly content: Uint8Array }
  | undefined

export interface Seen {
  readonly server: 'hub' | 'files'
  readonly path: string
  readonly range: string | undefined
  readonly authorization: string | undefined
}

/** A listed file with something else than the truth. */
export type ListedFile = Readonly<Record<string, unknown>>

export interface FakeRepository {
  commit: string
  files: Map<string, Uint8Array>
  /** Replaces what is listed. */
  listing?: (files: ListedFile[]) => unknown
}

export interface FakeHub {
  readonly endpoint: string
  readonly filesOrigin: string
  readonly repositories: Map<string, FakeRepository>
  /** Every request, in order. */
  readonly seen: Seen[]
  misbehave: (request: Seen) => Misdeed
  /** Entries on a page of the listing. */
  pageSize: number
}

/** Files of at least this size are stored as large files, on the other server. */
const largeBytes = 200

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
export const gitSha1 = (bytes: Uint8Array): string =>
  createHash('sha1')
    .update(Buffer.concat([Buffer.from(`blob ${bytes.length}\0`), bytes]))
    .digest('hex')
const isLarge = (bytes: Uint8Array): boolean => bytes.length >= largeBytes
/** The name that the content has in the cache. */
export const hashOf = (bytes: Uint8Array): string => (isLarge(bytes) ? sha256(bytes) : gitSha1(bytes))

/** Bytes that look like no others: a seeded sequence. */
export function someBytes(length: number, seed = 1): Uint8Array {
  let state = seed * 2654435761
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state >>> 24
  })
}

export const text = (value: string): Uint8Array => new TextEncoder().encode(value)

export async function startHub(): Promise<FakeHub> {
  const hub = {
    endpoint: '',
    filesOrigin: '',
    repositories: new Map<string, FakeRepository>(),
    seen: [] as Seen[],
    misbehave: (): Misdeed => undefined,
    pageSize: 1000,
  }
  const fake: FakeHub = hub
  const handle = (server: Seen['server']) => (request: IncomingMessage, response: ServerResponse) => {
    const { range, authorization } = request.headers
    const seen: Seen = { server, path: request.url ?? '', range, authorization }
    fake.seen.push(seen)
    const misdeed = fake.misbehave(seen)
    if (misdeed && 'status' in misdeed) {
      response.writeHead(misdeed.status, misdeed.headers)
      response.end(misdeed.body)
    } else if (server === 'hub') answerHub(fake, seen, response, misdeed)
    else answerFile(fake, seen, response, misdeed)
  }
  hub.endpoint = await listen(createServer(handle('hub')))
  hub.filesOrigin = await listen(createServer(handle('files')))
  return fake
}

async function listen(server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

function answerHub(hub: FakeHub, seen: Seen, response: ServerResponse, misdeed: Misdeed): void {
  const url = new URL(seen.path, hub.endpoint)
  const api = /^\/api\/models\/(.+?)\/(revision|tree)\/(.+)$/.exec(url.pathname)
  const file = /^\/(.+?)\/resolve\/([^/]+)\/(.+)$/.exec(url.pathname)
  const repository = hub.repositories.get(api?.[1] ?? file?.[1] ?? '')
  if (!repository) {
    refuse(response, 401, 'RepoNotFound')
    return
  }
  const { commit, files } = repository
  if (api) {
    answerApi(hub, url, api, repository, response)
    return
  }
  const bytes = files.get(decodeURIComponent(file?.[3] ?? ''))
  if (!bytes) {
    refuse(response, 404, 'EntryNotFound')
    return
  }
  response.setHeader('x-repo-commit', commit)
  if (!isLarge(bytes)) {
    response.setHeader('etag', `"${gitSha1(bytes)}"`)
    sendBytes(response, bytes, seen.range, misdeed)
    return
  }
  response.writeHead(302, {
    location: `${hub.filesOrigin}/${sha256(bytes)}?signature=${hub.seen.length}`,
    'x-linked-etag': `"${sha256(bytes)}"`,
    'x-linked-size': String(bytes.length),
  })
  response.end()
}

function answerApi(
  hub: FakeHub,
  url: URL,
  [, name, kind, revision = '']: RegExpExecArray,
  repository: FakeRepository,
  response: ServerResponse,
): void {
  const { commit } = repository
  if (!['main', commit].includes(decodeURIComponent(revision))) {
    refuse(response, 404, 'RevisionNotFound')
  } else if (kind === 'revision') {
    sendJson(response, { _id: 'x', id: name, sha: commit, private: false })
  } else {
    const entries = listed(repository)
    const start = Number(url.searchParams.get('cursor') ?? 0)
    const next = start + hub.pageSize
    if (Array.isArray(entries) && next < entries.length) {
      const address = `${hub.endpoint}${url.pathname}?recursive=true&cursor=${next}`
      response.setHeader('link', `<${address}>; rel="next"`)
    }
    sendJson(response, Array.isArray(entries) ? entries.slice(start, next) : entries)
  }
}

function answerFile(hub: FakeHub, seen: Seen, response: ServerResponse, misdeed: Misdeed): void {
  const hash = seen.path.slice(1, 65)
  const contents = [...hub.repositories.values()].flatMap(({ files }) => [...files.values()])
  const bytes = contents.find((candidate) => sha256(candidate) === hash)
  if (!bytes) {
    refuse(response, 404, undefined)
    return
  }
  response.setHeader('etag', '"d41d8cd98f00b204e9800998ecf8427e-2"')
  sendBytes(response, misdeed && 'content' in misdeed ? misdeed.content : bytes, seen.range, misdeed)
}

function listed(repository: FakeRepository): unknown {
  const entries = [...repository.files].map(([path, bytes]): ListedFile => {
    const common = { type: 'file', path, size: bytes.length }
    // A large file's own oid is that of its pointer.
    return isLarge(bytes)
      ? { ...common, oid: '1'.repeat(40), lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 134 } }
      : { ...common, oid: gitSha1(bytes) }
  })
  const all = [{ type: 'directory', path: 'folder', oid: '2'.repeat(40), size: 0 }, ...entries]
  return repository.listing ? repository.listing(all) : all
}

function sendBytes(response: ServerResponse, bytes: Uint8Array, range: string | undefined, misdeed: Misdeed): void {
  const start = misdeed && 'ignoreRange' in misdeed ? 0 : Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0)
  if (start > 0 && start >= bytes.length) {
    response.writeHead(416, { 'content-range': `bytes */${bytes.length}` })
    response.end()
    return
  }
  const body = bytes.subarray(start)
  response.setHeader('content-length', body.length)
  if (start > 0) response.setHeader('content-range', `bytes ${start}-${bytes.length - 1}/${bytes.length}`)
  response.writeHead(start > 0 ? 206 : 200)
  if (misdeed && 'cutAfter' in misdeed) {
    response.write(body.subarray(0, misdeed.cutAfter))
    cut(response, misdeed.until).catch(() => response.destroy())
  } else if (misdeed && 'stallAfter' in misdeed) response.write(body.subarray(0, misdeed.stallAfter))
  else response.end(body)
}

async function cut(response: ServerResponse, until: (() => Promise<boolean>) | undefined): Promise<void> {
  do await sleep(5)
  while (until !== undefined && !(await until()) && !response.destroyed)
  response.destroy()
}

function refuse(response: ServerResponse, status: number, code: string | undefined): void {
  response.writeHead(status, code === undefined ? {} : { 'x-error-code': code })
  response.end()
}

function sendJson(response: ServerResponse, value: unknown): void {
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify(value))
}

export const commitA = 'a'.repeat(40)
export const commitB = 'b'.repeat(40)

export const adapters = someBytes(5000, 2)
export const tables = someBytes(3000, 3)
export const checkpointConfig = (base: string): Uint8Array => text(JSON.stringify({ decoder_model_name: base }))

/** A repository as Apple's: two checkpoints in folders, with what a pull must leave out. */
export function checkpointRepository(base = 'org/base'): FakeRepository {
  const folder = (name: string, seed: number): [string, Uint8Array][] => [
    [`${name}/config.json`, checkpointConfig(base)],
    [`${name}/adapters.pth`, seed === 0 ? adapters : someBytes(5000, seed)],
    [`${name}/decoder_first_last_layers.pth`, tables],
    [`${name}/tokenizer.json`, text('{}')],
    [`${name}/modeling_clara.py`, text('import os')],
    [`${name}/pytorch_model.bin`, someBytes(900, 9)],
  ]
  const files = [
    ['README.md', text('# Card')] as const,
    ...folder('compression-16', 0),
    ...folder('compression-128', 7),
  ]
  return { commit: commitA, files: new Map(files) }
}

/** A base model in shards, with what holds the same weights again. */
export function baseRepository(): FakeRepository {
  const shards = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
  const weightMap = {
    'model.norm.weight': shards[1],
    'model.embed_tokens.weight': shards[0],
    'lm_head.weight': shards[1],
  }
  return {
    commit: commitB,
    files: new Map([
      ['config.json', text('{"model_type":"mistral"}')],
      ['generation_config.json', text('{}')],
      ['tokenizer.json', someBytes(400, 4)],
      ['tokenizer_config.json', text('{"bos_token":"<s>"}')],
      ['special_tokens_map.json', text('{"x":1}')],
      ['model.safetensors.index.json', text(JSON.stringify({ metadata: {}, weight_map: weightMap }))],
      ['model-00001-of-00002.safetensors', someBytes(7000, 5)],
      ['model-00002-of-00002.safetensors', someBytes(6000, 6)],
      ['consolidated.safetensors', someBytes(500, 8)],
      ['pytorch_model-00001-of-00001.bin', someBytes(500, 9)],
      ['README.md', text('# Card')],
    ]),
  }
}

export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'clara-hub-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** Does not wait, and gives up soon. */
export const patience: Patience = { attempts: 3, stallSeconds: 20, longestWait: 100, pause: async () => undefined }

export interface Setting {
  readonly hub: FakeHub
  readonly cacheFolder: string
  readonly environment: Readonly<Record<string, string>>
  pull(name: string, options?: PullOptions): Promise<PulledModel>
}

/** A hub with `org/clara` and `org/base`, and an empty cache. */
export async function newSetting(): Promise<Setting> {
  return settingWith(await startHub())
}

/** The same on a hub that runs already. */
export async function settingWith(hub: FakeHub): Promise<Setting> {
  hub.repositories.set('org/clara', checkpointRepository())
  hub.repositories.set('org/base', baseRepository())
  const home = await temporaryFolder()
  const environment = { HF_ENDPOINT: hub.endpoint, HF_HOME: home }
  return {
    hub,
    cacheFolder: join(home, 'hub'),
    environment,
    pull: (name, options) => pullModel(name, { environment, patience, ...options }),
  }
}

/** Misbehaves at the first requests that `which` picks, in this order, then no more. */
export function inTurn(which: (request: Seen) => boolean, misdeeds: readonly Misdeed[]): (request: Seen) => Misdeed {
  const left = [...misdeeds]
  return (request) => (which(request) ? left.shift() : undefined)
}

export const isTransferOf =
  (bytes: Uint8Array) =>
  ({ server, path }: Seen): boolean =>
    server === 'files' && path.startsWith(`/${sha256(bytes)}`)

/** Expects an error for the user whose message has all the patterns, and returns its message. */
export async function expectClaraError(work: Promise<unknown>, ...patterns: readonly RegExp[]): Promise<string> {
  const outcome = await work.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  )
  expect(outcome).toHaveProperty('error')
  const error = 'error' in outcome ? outcome.error : undefined
  expect(error).toBeInstanceOf(ClaraError)
  for (const pattern of patterns) expect(String(error)).toMatch(pattern)
  return String(error)
}

/** The address of a port on which nobody listens. */
export async function silentAddress(): Promise<string> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return `http://127.0.0.1:${port}`
}
