/** What the hub may answer besides the file, what the user is told, and who gets to see the token. */
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  adapters,
  expectClaraError,
  inTurn,
  isTransferOf,
  newSetting,
  patience,
  type Seen,
  silentAddress,
  startHub,
} from './server.ts'

const checkpoint = { subfolder: 'compression-16' }
const isInfo = ({ path }: Seen) => path.includes('/revision/')
const isResolve = ({ path }: Seen) => path.includes('/resolve/')

describe('the hub says no', () => {
  test.each([
    [401, 'RepoNotFound', undefined, [/does not exist, or it is private/, /set HF_TOKEN/]],
    [401, undefined, 'hf_x', [/does not exist, or it is private/, /whether the token in HF_TOKEN is valid/]],
    [401, 'GatedRepo', undefined, [/org\/clara is gated/, /Accept them at http:\S+\/org\/clara, then set HF_TOKEN/]],
    [403, 'GatedRepo', 'hf_x', [/org\/clara is gated/, /one is set, but it gives no access/]],
    [403, undefined, 'hf_x', [/org\/clara is gated/]],
    [404, 'RepoNotFound', 'hf_x', [/org\/clara does not exist on http/]],
    [
      404,
      undefined,
      undefined,
      [/org\/clara \(revision main\) does not exist on http/, /Check the name and the revision/],
    ],
    [404, 'RevisionNotFound', undefined, [/no revision "main"/]],
    [410, undefined, undefined, [/hub refuses org\/clara/, /status 410/]],
  ])('%i %s', async (status, code, token, patterns) => {
    const { hub, pull, environment } = await newSetting()
    hub.misbehave = (request) =>
      isInfo(request) ? { status, ...(code === undefined ? {} : { headers: { 'x-error-code': code } }) } : undefined
    const settings = { ...environment, ...(token === undefined ? {} : { HF_TOKEN: token }) }
    const message = await expectClaraError(pull('org/clara', { ...checkpoint, environment: settings }), ...patterns)
    if (token !== undefined) expect(message).not.toContain(token)
    expect(hub.seen).toHaveLength(1)
  })

  test('a gated file of a model whose listing is open', async () => {
    const { hub, pull } = await newSetting()
    hub.misbehave = (request) =>
      isResolve(request) ? { status: 403, headers: { 'x-error-code': 'GatedRepo' } } : undefined
    await expectClaraError(pull('org/clara', checkpoint), /org\/clara is gated/)
  })

  test('a revision that does not exist', async () => {
    const { pull } = await newSetting()
    await expectClaraError(pull('org/clara', { ...checkpoint, revision: 'v9' }), /org\/clara has no revision "v9"/)
  })
})

describe('the hub is busy', () => {
  test.each([
    ['the question', isInfo],
    ['the file', isResolve],
    ['the other server', isTransferOf(adapters)],
  ])('for a moment, at %s: it is asked again', async (_, which) => {
    const { hub, pull } = await newSetting()
    hub.misbehave = inTurn(which, [{ status: 500 }, { status: 429, headers: { 'retry-after': '7' } }])
    const pauses: number[] = []
    const counting = { ...patience, pause: async (seconds: number) => void pauses.push(seconds) }
    await pull('org/clara', { ...checkpoint, patience: counting })
    expect(pauses).toEqual([1, 7])
  })

  test('for good: the error says what was asked for', async () => {
    const { hub, pull } = await newSetting()
    hub.misbehave = (request) => (isInfo(request) ? { status: 503 } : undefined)
    await expectClaraError(pull('org/clara', checkpoint), /cannot serve org\/clara .* at the moment/, /status 503/)
    expect(hub.seen).toHaveLength(3)
  })

  test('for longer than anybody waits: the error says how long', async () => {
    const { hub, pull } = await newSetting()
    hub.misbehave = (request) => (isInfo(request) ? { status: 429, headers: { 'retry-after': '3000' } } : undefined)
    await expectClaraError(pull('org/clara', checkpoint), /rate limit/, /Try again in 3000 seconds/, /HF_TOKEN/)
    expect(hub.seen).toHaveLength(1)
  })

  test('a signed address that has run out is asked for anew', async () => {
    const { hub, pull } = await newSetting()
    hub.misbehave = inTurn(isTransferOf(adapters), [{ cutAfter: 100 }, { status: 403 }])
    await pull('org/clara', checkpoint)
    const addresses = hub.seen.filter(isTransferOf(adapters)).map(({ path }) => path)
    expect(new Set(addresses).size).toBe(3)
  })
})

describe('nobody answers', () => {
  test('the error says so, and where an earlier pull is', async () => {
    const { cacheFolder, pull, environment } = await newSetting()
    const address = await silentAddress()
    const offline = { ...environment, HF_ENDPOINT: address }
    const message = await expectClaraError(
      pull('org/clara', { ...checkpoint, environment: offline }),
      new RegExp(`${address.slice(7)} cannot be reached`),
      /ECONNREFUSED/,
      /Is this machine offline\?/,
    )
    expect(message).not.toContain('earlier')
    const { folder } = await pull('org/clara', checkpoint)
    expect(folder.startsWith(cacheFolder)).toBe(true)
    const later = await expectClaraError(pull('org/clara', { ...checkpoint, environment: offline }))
    expect(later).toContain(`What was pulled earlier is in "${folder}"`)
  })

  test('HF_HUB_OFFLINE: nobody is even asked', async () => {
    const { hub, pull, environment } = await newSetting()
    const offline = { ...environment, HF_HUB_OFFLINE: '1' }
    await expectClaraError(pull('org/clara', { ...checkpoint, environment: offline }), /HF_HUB_OFFLINE is set/)
    expect(hub.seen).toEqual([])
  })

  test.each([
    ['a sign-in page', '<html>Sign in</html>'],
    ['another JSON', '{"hello": 1}'],
    ['no commit', '{"id": "org/clara", "sha": "main"}'],
  ])('something that is no hub answers: %s', async (_, body) => {
    const { hub, pull } = await newSetting()
    hub.misbehave = (request) => (isInfo(request) ? { status: 200, body } : undefined)
    await expectClaraError(pull('org/clara', checkpoint), /does not answer as a hub does/, /sign-in page/)
  })
})

describe('the token', () => {
  const token = 'a-token-of-a-private-mirror'

  test('goes to the hub and to nobody else', async () => {
    const { hub, pull, environment } = await newSetting()
    await pull('org/clara', { ...checkpoint, environment: { ...environment, HF_TOKEN: token } })
    const by = (server: Seen['server']) =>
      new Set(hub.seen.filter((seen) => seen.server === server).map((seen) => seen.authorization))
    expect(by('hub')).toEqual(new Set([`Bearer ${token}`]))
    expect(by('files')).toEqual(new Set([undefined]))
  })

  test('does not follow a redirect of a question, or a next page, to another host', async () => {
    const { hub, pull, environment } = await newSetting()
    const other = await startHub()
    other.repositories.set('org/clara', hub.repositories.get('org/clara') ?? { commit: '', files: new Map() })
    hub.misbehave = (request) =>
      isInfo(request) ? { status: 307, headers: { location: `${other.endpoint}${request.path}` } } : undefined
    await pull('org/clara', { ...checkpoint, environment: { ...environment, HF_TOKEN: token } })

    hub.misbehave = ({ path }) =>
      path.includes('/tree/')
        ? { status: 200, headers: { link: `<${other.endpoint}${path}>; rel="next"` }, body: '[]' }
        : undefined
    await pull('org/clara', { ...checkpoint, environment: { ...environment, HF_TOKEN: token } })
    expect(other.seen.length).toBeGreaterThanOrEqual(2)
    expect(other.seen.map(({ authorization }) => authorization)).toEqual(other.seen.map(() => undefined))
  })

  test('a renamed repository is followed within the hub', async () => {
    const { hub, pull, environment } = await newSetting()
    hub.misbehave = ({ path }) =>
      path.includes('org/old')
        ? { status: 307, headers: { location: path.replace('org/old', 'org/clara') } }
        : undefined
    const { folder } = await pull('org/old', { ...checkpoint, environment: { ...environment, HF_TOKEN: token } })
    expect(folder).toContain(join('models--org--old', 'snapshots'))
    expect(hub.seen.filter(({ server }) => server === 'hub').every((seen) => seen.authorization !== undefined)).toBe(
      true,
    )
  })
})

test.each([
  ['file:///etc/passwd', /redirects to an address that is not followed/],
  ['http://user:secret@127.0.0.1/', /redirects to an address that is not followed/],
  ['http://[', /redirects to an address that is not followed/],
])('a redirect to %s is not followed', async (location, pattern) => {
  const { hub, pull } = await newSetting()
  hub.misbehave = (request) => (isResolve(request) ? { status: 302, headers: { location } } : undefined)
  const message = await expectClaraError(pull('org/clara', checkpoint), pattern)
  expect(message).not.toContain('secret')
})

test('a redirect in circles ends', async () => {
  const { hub, pull } = await newSetting()
  hub.misbehave = (request) => (isResolve(request) ? { status: 302, headers: { location: request.path } } : undefined)
  await expectClaraError(pull('org/clara', checkpoint), /too many redirects/)
  expect(hub.seen.filter(isResolve)).toHaveLength(11)
})

test('a listing without end is cut off', async () => {
  const { hub, pull } = await newSetting()
  const entries = Array.from({ length: 1000 }, (_, at) => ({
    type: 'file',
    path: `a${at}`,
    size: 0,
    oid: '0'.repeat(40),
  }))
  hub.misbehave = ({ path }) =>
    path.includes('/tree/')
      ? { status: 200, headers: { link: `<${hub.endpoint}${path}>; rel="next"` }, body: JSON.stringify(entries) }
      : undefined
  await expectClaraError(pull('org/clara', checkpoint), /too many files/)
})

test('an answer without end is cut off', async () => {
  const { hub, pull } = await newSetting()
  hub.misbehave = (request) => (isInfo(request) ? { status: 200, body: ' '.repeat(40 << 20) } : undefined)
  await expectClaraError(pull('org/clara', checkpoint), /answer about org\/clara is too long/)
})
