/** Web pages as sources. Whoever can name an address must not reach through it what only this machine reaches. */

import type { LookupAddress } from 'node:dns'
import { lookup as systemLookup } from 'node:dns'
import { get as httpGet, type IncomingMessage } from 'node:http'
import { get as httpsGet } from 'node:https'
import { isIP, type LookupFunction } from 'node:net'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream'
import { createBrotliDecompress, createGunzip, createInflate } from 'node:zlib'
import { ClaraError } from '../errors.ts'
import { isPublicAddress } from './address.ts'
import { quoted, type Source, tooLarge } from './source.ts'

export interface WebOptions {
  /** Without it nothing is fetched. */
  readonly allowNetwork: boolean
  /** Most bytes, after decompression. */
  readonly bytes: number
  /** For the whole page, redirects included. */
  readonly seconds: number
  readonly signal?: AbortSignal
  /** Tests put the names and addresses of their own server here. */
  readonly network?: Network
}

export interface Network {
  readonly lookup: (hostname: string) => Promise<readonly LookupAddress[]>
  readonly permits: (address: string) => boolean
}

const internet: Network = {
  lookup: (hostname) =>
    new Promise((resolve, reject) => {
      systemLookup(hostname, { all: true }, (error, addresses) => (error ? reject(error) : resolve(addresses)))
    }),
  permits: isPublicAddress,
}

const MOST_REDIRECTS = 5
const USER_AGENT = 'clara-ts (document reader)'

/** Whether a name is the address of a web page. */
export const isWebAddress = (text: string): boolean => /^https?:\/\//i.test(text)

/**
 * Fetches a page. Host names are resolved once, and the connection goes to the very address that was checked, at every redirect anew.
 * Proxies of the environment are not used.
 * @throws ClaraError without allowNetwork; for addresses that are not public; when it takes too long, is too large, or the server refuses.
 */
export async function openWebPage(address: string, options: WebOptions): Promise<Source> {
  const name = quoted(address)
  if (!options.allowNetwork) {
    throw new ClaraError(`${name} is not fetched: the network is not allowed.`, {
      hint: 'Allow it with allowNetwork (--allow-network).',
    })
  }
  const timeout = AbortSignal.timeout(Math.ceil(options.seconds * 1000))
  const signal = options.signal ? AbortSignal.any([timeout, options.signal]) : timeout
  const explain = (error: unknown) => {
    if (error instanceof ClaraError) return error
    options.signal?.throwIfAborted()
    if (timeout.aborted) {
      return new ClaraError(`${name} takes too long.`, { expected: `at most ${options.seconds} seconds` })
    }
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error)
    return new ClaraError(`${name} cannot be fetched.`, {
      received: code,
      hint: 'Check address and network.',
      cause: error,
    })
  }
  try {
    const { response, url } = await follow(address, name, signal, options.network ?? internet)
    const type = response.headers['content-type'] ?? ''
    const charset = /;\s*charset\s*=\s*"?([\w.:-]{1,40})/i.exec(type)?.[1]
    return {
      name,
      path: decodedPath(url),
      mediaType: (type.split(';')[0] ?? '').trim().toLowerCase(),
      ...(charset === undefined ? {} : { charset: charset.toLowerCase() }),
      pieces: limited(decompressed(response, name), options.bytes, name, explain),
      close: async () => {
        response.destroy()
      },
    }
  } catch (error) {
    throw explain(error)
  }
}

async function follow(
  address: string,
  name: string,
  signal: AbortSignal,
  network: Network,
): Promise<{ readonly response: IncomingMessage; readonly url: URL }> {
  let url = checkedAddress(address, undefined, name)
  for (let hops = 0; hops <= MOST_REDIRECTS; hops++) {
    const response = await request(url, name, signal, network)
    const { statusCode = 0 } = response
    const location = response.headers.location
    if (statusCode >= 300 && statusCode < 400 && location !== undefined) {
      response.destroy()
      url = checkedAddress(location, url, name)
      continue
    }
    if (statusCode === 200) return { response, url }
    response.destroy()
    throw new ClaraError(`${name} is not served.`, { received: `status ${statusCode}` })
  }
  throw new ClaraError(`${name} is behind too many redirects.`, { expected: `at most ${MOST_REDIRECTS}` })
}

/**
 * An address that may be fetched: http or https, without a user name, and no way back from https.
 * @param from The address that redirects to it.
 * @param name For messages.
 * @throws ClaraError for any other.
 */
export function checkedAddress(address: string, from: URL | undefined, name: string): URL {
  const redirected = from === undefined ? '' : ' redirects to what'
  if (!URL.canParse(address, from?.href)) throw new ClaraError(`${name}${redirected} is not a web address.`)
  const url = new URL(address, from)
  if (url.protocol !== 'https:' && (url.protocol !== 'http:' || from?.protocol === 'https:')) {
    throw new ClaraError(`${name}${redirected} is not fetched.`, {
      expected: from?.protocol === 'https:' ? 'https' : 'http or https',
      received: url.protocol.slice(0, 20),
    })
  }
  if (url.username !== '' || url.password !== '') {
    throw new ClaraError(`${name}${redirected} has a user name or a password in it.`, { hint: 'Leave them out.' })
  }
  return url
}

async function request(url: URL, name: string, signal: AbortSignal, network: Network): Promise<IncomingMessage> {
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  signal.throwIfAborted()
  const found = isIP(host) === 0 ? await network.lookup(host) : [{ address: host, family: isIP(host) }]
  // one forbidden address is enough: a name that is half public is meant to deceive
  const forbidden = found.find(({ address }) => !network.permits(address))
  const [target] = found
  if (forbidden !== undefined || target === undefined) {
    throw new ClaraError(`${name} is not fetched: it leads to an address that is not public.`, {
      received: forbidden === undefined ? `no address for ${url.hostname}` : `${url.hostname} at ${forbidden.address}`,
      hint: 'Pages of this machine and its network are not read; save them as files.',
    })
  }
  // the connection asks again: it gets what was checked, not what the name says by now
  const pinned: LookupFunction = (_, { all }, callback) => {
    if (all === true) callback(null, [...found])
    else callback(null, target.address, target.family)
  }
  return new Promise((resolve, reject) => {
    const get = url.protocol === 'https:' ? httpsGet : httpGet
    const headers = { 'user-agent': USER_AGENT, accept: '*/*', 'accept-encoding': 'gzip, deflate, br' }
    get(url, { headers, lookup: pinned, signal, agent: false, maxHeaderSize: 32 * 1024 }, resolve).on('error', reject)
  })
}

function decompressed(response: IncomingMessage, name: string): Readable {
  const encoding = (response.headers['content-encoding'] ?? 'identity').trim().toLowerCase()
  // pipeline destroys both ends whoever fails or stops first; the failure itself arrives through the iteration
  const through = (stage: ReturnType<typeof createGunzip>) => pipeline(response, stage, () => {})
  if (encoding === 'identity' || encoding === '') return response
  if (encoding === 'gzip' || encoding === 'x-gzip') return through(createGunzip())
  if (encoding === 'deflate') return through(createInflate())
  if (encoding === 'br') return through(createBrotliDecompress())
  throw new ClaraError(`${name} comes in an unknown compression.`, { received: JSON.stringify(encoding.slice(0, 40)) })
}

async function* limited(
  body: Readable,
  limit: number,
  name: string,
  explain: (error: unknown) => unknown,
): AsyncGenerator<Uint8Array, void, undefined> {
  let total = 0
  try {
    for await (const piece of body) {
      total += piece.length
      if (total > limit) throw tooLarge(name, limit)
      yield piece
    }
  } catch (error) {
    throw explain(error)
  }
}

function decodedPath(url: URL): string {
  try {
    return decodeURIComponent(url.pathname)
  } catch {
    return url.pathname
  }
}
