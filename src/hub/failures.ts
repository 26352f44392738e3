/** What a failed request means to the person who waits for it, and whether another attempt may help. */
import { ClaraError, type ErrorFacts } from '../errors.ts'
import type { Connection } from './http.ts'

/** A failure that another attempt may not meet. */
export class TransientError extends ClaraError {
  /** Nothing answered at all, rather than a connection that broke or a server that was busy. */
  readonly unreachable: boolean
  /** Seconds that the server asked to wait. */
  readonly retryAfter: number | undefined

  constructor(
    problem: string,
    facts: ErrorFacts = {},
    {
      unreachable = false,
      retryAfter,
    }: { readonly unreachable?: boolean; readonly retryAfter?: number | undefined } = {},
  ) {
    super(problem, facts)
    this.unreachable = unreachable
    this.retryAfter = retryAfter
  }
}

/** What is asked for, for messages. */
export interface Subject {
  readonly name: string
  readonly revision: string
  /** The file; absent for questions about the repository. */
  readonly path?: string
}

export function describe({ name, revision, path }: Subject): string {
  return path === undefined ? `${name} (revision ${revision})` : `"${path}" of ${name}`
}

/**
 * The error for a status that is no answer.
 *
 * @param fromHub Whether the hub itself answered, rather than a server that it redirects to.
 */
export function statusError(
  { status, headers }: { readonly status: number; readonly headers: Headers },
  fromHub: boolean,
  connection: Connection,
  subject: Subject,
): ClaraError {
  const { settings, patience } = connection
  const what = describe(subject)
  const received = `status ${status}`
  if (status === 429 || status === 408 || status >= 500) {
    const wait = Number(headers.get('retry-after') ?? Number.NaN)
    const retryAfter = Number.isFinite(wait) && wait >= 0 ? Math.ceil(wait) : undefined
    if (status !== 429) {
      return new TransientError(`The server cannot serve ${what} at the moment.`, { received }, { retryAfter })
    }
    const hint = `Try again in ${retryAfter === undefined ? 'some minutes' : `${retryAfter} seconds`}. ${
      settings.token === undefined ? 'With a token in HF_TOKEN the hub allows more.' : ''
    }`.trim()
    const problem = `The hub wants fewer requests (rate limit) and does not serve ${what} now.`
    if ((retryAfter ?? 0) > patience.longestWait) return new ClaraError(problem, { received, hint })
    return new TransientError(problem, { received, hint }, { retryAfter })
  }
  // The addresses that the hub redirects to are signed for a while only: the next attempt gets a new one.
  if (!fromHub) {
    return new TransientError(`The server that the hub names does not give ${what}.`, { received })
  }
  const code = headers.get('x-error-code')
  const page = `${settings.endpoint}/${subject.name}`
  if (code === 'GatedRepo' || (status === 403 && code === null)) {
    return new ClaraError(`${subject.name} is gated: its owner wants its terms accepted before it is given out.`, {
      received,
      hint: `Accept them at ${page}, then set HF_TOKEN to a token of that account${
        settings.token === undefined ? '' : ' (one is set, but it gives no access)'
      }.`,
    })
  }
  if (code === 'RevisionNotFound') {
    return new ClaraError(`${subject.name} has no revision ${JSON.stringify(subject.revision)}.`, {
      received,
      hint: `Its branches and tags are at ${page}/tree/main.`,
    })
  }
  if (code === 'EntryNotFound') return new ClaraError(`${what} does not exist.`, { received })
  if (status === 401) {
    return new ClaraError(`The hub does not show ${subject.name}: it does not exist, or it is private.`, {
      received,
      hint:
        settings.token === undefined
          ? 'Check the name; for a private model set HF_TOKEN.'
          : 'Check the name, and whether the token in HF_TOKEN is valid and may read it.',
    })
  }
  if (status === 404) {
    const missing = code === 'RepoNotFound' ? subject.name : what
    return new ClaraError(`${missing} does not exist on ${settings.endpoint}.`, {
      received,
      hint: 'Check the name and the revision.',
    })
  }
  return new ClaraError(`The hub refuses ${what}.`, { received })
}

const unreachableCodes = new Set([
  'ENOTFOUND',
  'EAI_AGAIN',
  'ECONNREFUSED',
  'ENETUNREACH',
  'ENETDOWN',
  'EHOSTUNREACH',
  'ETIMEDOUT',
  'UND_ERR_CONNECT_TIMEOUT',
])

/** The error for a request that got no answer, or half of one. @throws The signal's reason when it has aborted. */
export function networkError(error: unknown, target: URL, signal: AbortSignal | undefined): unknown {
  signal?.throwIfAborted()
  const code = networkCode(error)
  if (unreachableCodes.has(code)) {
    const hint = 'Is this machine offline? Check the network, and HF_ENDPOINT where a mirror is used.'
    const facts = { received: code, hint, cause: error }
    return new TransientError(`${target.host} cannot be reached.`, facts, { unreachable: true })
  }
  if (/CERT|SELF_SIGNED|UNABLE_TO_VERIFY|^ERR_TLS|^ERR_SSL/.test(code)) {
    return new ClaraError(`The connection to ${target.host} is not trusted.`, {
      received: code,
      hint: 'Where a proxy opens connections, name its certificate in NODE_EXTRA_CA_CERTS.',
      cause: error,
    })
  }
  return new TransientError(`The connection to ${target.host} broke.`, { received: code, cause: error })
}

/** The system's code, which fetch hides one or two causes deep. */
function networkCode(error: unknown): string {
  for (let at = error, depth = 0; at instanceof Error && depth < 4; at = at.cause, depth++) {
    if ('code' in at && typeof at.code === 'string') return at.code
    if (at instanceof AggregateError && at.errors.length > 0) return networkCode(at.errors[0])
  }
  return error instanceof Error ? error.message : String(error)
}
