import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isPublicAddress } from '../../src/ingestion/address.ts'
import type { IngestOptions } from '../../src/ingestion/ingest.ts'
import { checkedAddress, type Network } from '../../src/ingestion/web.ts'
import { documentsOf, failuresOf, ingestAll, pdfOf } from './support.ts'

describe('addresses', () => {
  test.each([
    '127.0.0.1',
    '127.255.255.254',
    '10.1.2.3',
    '172.16.0.1',
    '172.31.255.255',
    '192.168.0.1',
    '169.254.169.254',
    '100.100.100.200',
    '0.0.0.0',
    '192.0.0.192',
    '168.63.129.16',
    '198.19.0.1',
    '224.0.0.1',
    '240.0.0.1',
    '255.255.255.255',
    '203.0.113.9',
    '::',
    '::1',
    '::ffff:8.8.8.8',
    '::ffff:127.0.0.1',
    '64:ff9b::7f00:1',
    '100::1',
    'fe80::1',
    'fe80::1%eth0',
    'fc00::1',
    'fd00:ec2::254',
    'ff02::1',
    '2001:db8::1',
    '2001::1',
    '2002:7f00:1::',
    '3fff::1',
    '4000::1',
    'localhost',
    '',
    '1.2.3',
    '0x7f.1',
    '8.8.8.8 ',
  ])('%s is not public', (address) => expect(isPublicAddress(address)).toBe(false))

  test.each([
    '8.8.8.8',
    '1.1.1.1',
    '172.32.0.1',
    '172.15.255.255',
    '100.63.255.255',
    '100.128.0.1',
    '223.255.255.255',
    '2606:4700::1',
    '2a00:1450::1',
  ])('%s is public', (address) => expect(isPublicAddress(address)).toBe(true))

  test('every address of a private range is refused', () => {
    // written as the ranges' first byte, second byte and what is free
    const ranges = fc.oneof(
      fc.tuple(fc.constantFrom(0, 10, 127), fc.nat(255)),
      fc.tuple(fc.constant(169), fc.constant(254)),
      fc.tuple(fc.constant(192), fc.constant(168)),
      fc.tuple(fc.constant(172), fc.integer({ min: 16, max: 31 })),
      fc.tuple(fc.constant(100), fc.integer({ min: 64, max: 127 })),
      fc.tuple(fc.integer({ min: 224, max: 255 }), fc.nat(255)),
    )
    fc.assert(
      fc.property(ranges, fc.nat(255), fc.nat(255), ([a, b], c, d) => {
        expect(isPublicAddress(`${a}.${b}.${c}.${d}`)).toBe(false)
        expect(isPublicAddress(`::ffff:${a}.${b}.${c}.${d}`)).toBe(false)
      }),
    )
  })
})

test('a redirect may lead from http to https, not back', () => {
  const [http, https] = ['http://a.test/x', 'https://b.test/y']
  expect(checkedAddress(https, new URL(http), 'it').href).toBe(https)
  expect(checkedAddress('z', new URL(https), 'it').href).toBe('https://b.test/z')
  expect(() => checkedAddress(http, new URL(https), 'it')).toThrow(
    /redirects to what is not fetched\. Expected https\. Got http:/,
  )
})

describe('pages', () => {
  let server: Server
  let port = 0
  let requests: string[] = []
  const answers = new Map<string, RequestListener>()
  beforeAll(async () => {
    server = createServer((request, response) => {
      requests.push(`${request.headers.host} ${request.url}`)
      const answer = answers.get(request.url ?? '')
      if (answer) answer(request, response)
      else response.writeHead(404).end()
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    port = (server.address() as AddressInfo).port
  })
  afterAll(() => {
    server.closeAllConnections()
    server.close()
  })

  /** One page. */
  const serve = (path: string, type: string, body: string | Uint8Array, headers = {}) =>
    answers.set(path, (_, response) => response.writeHead(200, { 'content-type': type, ...headers }).end(body))
  const redirect = (path: string, location: string) =>
    answers.set(path, (_, response) => response.writeHead(302, { location }).end())

  /** A network in which 127.0.0.1 stands for the public internet, and 127.0.0.2 for all that is not. */
  const names: Readonly<Record<string, readonly string[]>> = {
    'public.test': ['127.0.0.1'],
    'private.test': ['127.0.0.2'],
    'mixed.test': ['127.0.0.1', '127.0.0.2'],
  }
  const network: Network = {
    lookup: async (host) => {
      const addresses = names[host]
      if (!addresses) throw Object.assign(new Error('unknown'), { code: 'ENOTFOUND' })
      return addresses.map((address) => ({ address, family: 4 }))
    },
    permits: (address) => address === '127.0.0.1',
  }
  const open: IngestOptions = { allowNetwork: true, network }
  const at = (path: string, host = 'public.test') => `http://${host}:${port}${path}`

  test('nothing is fetched without being allowed', async () => {
    requests = []
    expect(await failuresOf([at('/')], { network })).toEqual([
      expect.stringMatching(/network is not allowed.*--allow-network/),
    ])
    expect(requests).toEqual([])
  })

  test('the type of the answer decides the reader', async () => {
    const markup = '<h2>Head</h2><p>Text of the page.'
    serve('/page', 'text/html; charset=utf-8', markup)
    serve('/plain.html', 'text/plain', markup)
    serve('/readme.md', 'text/plain', '# Head\n\nText')
    serve('/latin', 'text/html; charset=ISO-8859-1', Buffer.from('<p>Bl\xe5b\xe6r</p>', 'latin1'))
    serve('/file', 'application/octet-stream', pdfOf([['A page']]))
    serve('/doc?x=1', 'application/pdf', pdfOf([['Another page']]))
    serve('/rows', 'text/csv', 'text\none\ntwo\n')
    serve('/zipped', 'text/plain', gzipSync('unpacked'), { 'content-encoding': 'gzip' })
    const urls = ['/page', '/readme.md', '/latin', '/file', '/doc?x=1', '/rows', '/zipped'].map((path) => at(path))
    const documents = await documentsOf(urls, open)
    expect(documents.map(({ text }) => text)).toEqual([
      'Head\n\nText of the page.',
      '# Head\n\nText',
      'Blåbær',
      'A page',
      'Another page',
      'one',
      'two',
      'unpacked',
    ])
    expect(documents[0]).toMatchObject({ id: at('/page'), source: at('/page') })
    serve('/picture', 'image/png', 'x')
    expect(await failuresOf([at('/picture'), at('/none')], open)).toEqual([
      expect.stringMatching(/of a type that is not read.*"image\/png"/),
      expect.stringMatching(/is not served\. Got status 404/),
    ])
  })

  test('a page that is as it was is unchanged, another one read', async () => {
    serve('/news', 'text/markdown', '# One')
    const [, read] = await ingestAll([at('/news')], open)
    const known = () => (read?.kind === 'read' ? read.stamp : undefined)
    expect(await ingestAll([at('/news')], { ...open, known })).toMatchObject([{ kind: 'unchanged', path: at('/news') }])
    serve('/news', 'text/markdown', '# Two')
    const again = await ingestAll([at('/news')], { ...open, known })
    expect(again).toMatchObject([{ kind: 'document', document: { text: '# Two' } }, { kind: 'read' }])
  })

  test('addresses that are not public are refused by their name, their number and their spelling', async () => {
    requests = []
    const refused = await failuresOf(
      [
        at('/', 'private.test'),
        at('/', 'mixed.test'),
        at('/', '127.0.0.2'),
        at('/', '2130706434'),
        at('/', '0x7f.0.0.2'),
        at('/', '[::1]'),
      ],
      open,
    )
    expect(refused).toHaveLength(6)
    for (const reason of refused) expect(reason).toMatch(/leads to an address that is not public/)
    // and with the real network, by the real list
    const real = await failuresOf([at('/', '127.0.0.1'), at('/', 'localhost'), 'http://169.254.169.254/latest/'], {
      allowNetwork: true,
    })
    expect(real).toHaveLength(3)
    for (const reason of real) expect(reason).toMatch(/leads to an address that is not public/)
    expect(requests).toEqual([])
  })

  test('a redirect leads no further than an address', async () => {
    serve('/end', 'text/plain', 'arrived')
    redirect('/relative', 'end')
    redirect('/private', at('/end', 'private.test'))
    redirect('/number', 'http://127.0.0.2/')
    redirect('/file', 'file:///etc/passwd')
    redirect('/secret', 'http://user:word@public.test/')
    redirect('/circle', '/circle')
    expect((await documentsOf([at('/relative')], open))[0]?.text).toBe('arrived')
    requests = []
    const urls = ['/private', '/number', '/file', '/secret', '/circle'].map((path) => at(path))
    expect(await failuresOf(urls, open)).toEqual([
      expect.stringMatching(/not public\. Got private\.test at 127\.0\.0\.2/),
      expect.stringMatching(/not public\. Got 127\.0\.0\.2/),
      expect.stringMatching(/redirects to what is not fetched.*http or https.*file:/),
      expect.stringMatching(/user name or a password/),
      expect.stringMatching(/too many redirects/),
    ])
    expect(requests.every((request) => request.startsWith('public.test'))).toBe(true)
  })

  test('the connection goes to the address that was checked, even if the name has another one by then', async () => {
    serve('/rebind', 'text/plain', 'the checked one')
    let asked = 0
    const rebinding: Network = {
      ...network,
      lookup: async () => [{ address: asked++ === 0 ? '127.0.0.1' : '127.0.0.2', family: 4 }],
    }
    expect((await documentsOf([at('/rebind', 'rebind.test')], { ...open, network: rebinding }))[0]?.text).toBe(
      'the checked one',
    )
    expect(asked).toBe(1)
  })

  test('size counts after unpacking, and time to the end', async () => {
    serve('/bomb', 'text/plain', gzipSync(Buffer.alloc(5_000_000, 'a')), { 'content-encoding': 'gzip' })
    answers.set('/slow', (_, response) => void response.writeHead(200, { 'content-type': 'text/plain' }).write('begun'))
    answers.set('/never', () => {})
    const limits = { documentBytes: 1_000_000, seconds: 0.3 }
    expect(
      await failuresOf([at('/bomb'), at('/slow'), at('/never'), at('/', 'unknown.test')], { ...open, limits }),
    ).toEqual([
      expect.stringMatching(/too large/),
      expect.stringMatching(/takes too long.*0\.3 seconds/),
      expect.stringMatching(/takes too long/),
      expect.stringMatching(/cannot be fetched.*ENOTFOUND/),
    ])
  })
})
