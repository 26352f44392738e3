/** Requests to the hub: who gets the token, and where a redirect may lead. */
import { ClaraError } from '../errors.ts'
import { describe, networkError, type Subject, statusError } from './failures.ts'
import type { HubSettings } from './settings.ts'

/** How long to bear with a slow or failing server; tests shorten it. */
export interface Patience {
  /** Attempts in a row that bring nothing new, before giving up. */
  readonly attempts: number
  /** Seconds without a byte after which a connection counts as dead. */
  readonly stallSeconds: number
  /** Longest wait that a busy server may ask for, in seconds. */
  readonly longestWait: number
  /** Waits; rejects with the signal's reason when it aborts. */
  readonly pause: (seconds: number, signal: AbortSignal | undefined) => Promise<void>
}

export interface Connection {
  readonly settings: HubSettings
  readonly patience: Patience
  readonly signal: AbortSignal | undefined
}

export interface Answer {
  readonly status: number
  readonly headers: Headers
  /** What the hub itself said of the file, before it sent us to the server that has the bytes. */
  readonly linked: { readonly etag?: string; readonly size?: number; readonly commit?: string }
  /** The body as it comes. */
  chunks(): AsyncGenerator<Uint8Array>
}

const mostRedirects = 10

/**
 * Sends a GET request, follows redirects, and lets `read` have the answer.
 *
 * The token goes with requests to the endpoint's own origin only. Statuses other than 200, 206 and 416 become errors.
 *
 * @throws TransientError for what may pass, ClaraError for what will not, and the signal's reason when it aborts.
 */
export async function withAnswer<T>(
  url: string,
  headers: Readonly<Record<string, string>>,
  connection: Connection,
  subject: Subject,
  read: (answer: Answer) => Promise<T>,
): Promise<T> {
  const watch = watchdog(connection)
  try {
    const origin = new URL(connection.settings.endpoint).origin
    let linked: Answer['linked'] = {}
    let target = new URL(url)
    for (let hops = 0; hops <= mostRedirects; hops++) {
      const response = await fetchOnce(target, headers, connection, watch)
      if (target.origin === origin) linked = { ...linkedFacts(response.headers), ...linked }
      const location = response.headers.get('location')
      if (response.status >= 300 && response.status < 400 && location !== null) {
        target = redirected(target, location)
        continue
      }
      if (![200, 206, 416].includes(response.status)) {
        throw statusError(response, target.origin === origin, connection, subject)
      }
      const chunks = () => chunksOf(response, target, connection, watch)
      return await read({ status: response.status, headers: response.headers, linked, chunks })
    }
    throw new ClaraError(`${describe(subject)} is behind too many redirects.`, {
      expected: `at most ${mostRedirects}`,
      hint: 'Is HF_ENDPOINT right?',
    })
  } finally {
    watch.end()
  }
}

interface Watchdog {
  readonly signal: AbortSignal
  /** Something came: the connection lives. */
  alive(): void
  /** Stops the clock and whatever of the request is still under way. */
  end(): void
}

function watchdog({ patience, signal }: Connection): Watchdog {
  const controller = new AbortController()
  const stalled = () => controller.abort(new Error(`nothing came for ${patience.stallSeconds} s`))
  let timer = setTimeout(stalled, patience.stallSeconds * 1000)
  return {
    signal: signal === undefined ? controller.signal : AbortSignal.any([controller.signal, signal]),
    alive() {
      clearTimeout(timer)
      timer = setTimeout(stalled, patience.stallSeconds * 1000)
    },
    end() {
      clearTimeout(timer)
      controller.abort(new Error('the request is over'))
    },
  }
}

async function fetchOnce(
  target: URL,
  headers: Readonly<Record<string, string>>,
  { settings, signal }: Connection,
  watch: Watchdog,
): Promise<Response> {
  const mayHaveToken = settings.token !== undefined && target.origin === new URL(settings.endpoint).origin
  try {
    const response = await fetch(target, {
      // A compressed body could not be resumed by its bytes.
      headers: {
        'accept-encoding': 'identity',
        'user-agent': 'clara-ts',
        ...headers,
        ...(mayHaveToken ? { authorization: `Bearer ${settings.token}` } : {}),
      },
      redirect: 'manual',
      signal: watch.signal,
    })
    watch.alive()
    return response
  } catch (error) {
    throw networkError(error, target, signal)
  }
}

async function* chunksOf(
  response: Response,
  target: URL,
  { signal }: Connection,
  watch: Watchdog,
): AsyncGenerator<Uint8Array> {
  if (response.body === null) return
  const reader = response.body.getReader()
  for (;;) {
    const next = await reader.read().catch((error: unknown) => {
      throw networkError(error, target, signal)
    })
    if (next.done) return
    watch.alive()
    yield next.value
  }
}

function redirected(from: URL, location: string): URL {
  if (URL.canParse(location, from.href)) {
    const target = new URL(location, from)
    const downgrade = from.protocol === 'https:' && target.protocol !== 'https:'
    if (/^https?:$/.test(target.protocol) && target.username === '' && !downgrade) return target
  }
  throw new ClaraError(`${from.host} redirects to an address that is not followed.`, {
    expected: `an address of ${from.protocol === 'https:' ? 'https' : 'http or https'} without user name`,
    hint: 'Is HF_ENDPOINT right, and no proxy in between?',
  })
}

function linkedFacts(headers: Headers): Answer['linked'] {
  // Without x-linked-etag the hub sends the file itself, and its own etag is the content's hash.
  const etag = (headers.get('x-linked-etag') ?? headers.get('etag'))?.replace(/^W\//, '').replace(/^"(.*)"$/, '$1')
  const size = headers.get('x-linked-size')
  const commit = headers.get('x-repo-commit')
  return {
    ...(etag !== undefined && /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(etag) ? { etag } : {}),
    ...(size !== null && /^\d{1,15}$/.test(size) ? { size: Number(size) } : {}),
    ...(commit === null ? {} : { commit }),
  }
}
