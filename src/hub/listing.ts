import { listFiles, modelInfo } from '@huggingface/hub'
import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import type { Subject } from './failures.ts'
import { type Connection, withAnswer } from './http.ts'
import { isCommit, leadsOut } from './names.ts'
import { withRetries } from './retry.ts'
import type { ContentHash } from './verify.ts'

/** A file of a repository, as the hub lists it. */
export interface HubFile {
  /** Relative to the repository, with "/". */
  readonly path: string
  readonly size: number
  readonly hash: ContentHash
}

/** The files of one commit. */
export interface Listing {
  readonly commit: string
  readonly files: readonly HubFile[]
}

const size = z.number().int().nonnegative()
const listedEntry = z.looseObject({
  type: z.string(),
  path: z.string().min(1),
  size: size.default(0),
  oid: z.string().regex(/^[0-9a-f]{40}$/),
  lfs: z.looseObject({ oid: z.string().regex(/^(sha256:)?[0-9a-f]{64}$/), size }).optional(),
})

const mostFiles = 20_000
const largestAnswer = 32 << 20

/**
 * Asks the hub which commit a revision is, and which files it has.
 *
 * @throws ClaraError when the hub cannot be reached, refuses, or answers with what no repository can be.
 */
export async function listModel(name: string, revision: string, connection: Connection): Promise<Listing> {
  const subject: Subject = { name, revision }
  const { endpoint } = connection.settings
  const common = { hubUrl: endpoint, fetch: hubFetch(connection, subject) }
  return explained(subject, endpoint, async () => {
    const { sha } = await modelInfo({ ...common, name, revision, additionalFields: ['sha'] })
    if (typeof sha !== 'string' || !isCommit(sha)) throw new SyntaxError('no commit')
    const files: HubFile[] = []
    const listed = listFiles({ ...common, repo: { type: 'model', name }, revision: sha, recursive: true })
    for await (const entry of listed) {
      const file = fileOf(entry, name)
      if (file) files.push(file)
      if (files.length > mostFiles) {
        throw new ClaraError(`${name} has too many files.`, { expected: `at most ${mostFiles}, as a model has` })
      }
    }
    return { commit: sha, files }
  })
}

function fileOf(entry: unknown, name: string): HubFile | undefined {
  const { type, path, oid, lfs, size } = listedEntry.parse(entry)
  if (leadsOut(path)) {
    throw new ClaraError(`${name} lists a file outside itself: ${JSON.stringify(path)}. Nothing was fetched.`, {
      hint: 'No honest repository does; report it to the hub.',
    })
  }
  if (type !== 'file') return undefined
  const hash: ContentHash = lfs
    ? { algorithm: 'sha256', hex: lfs.oid.replace('sha256:', '') }
    : { algorithm: 'git-sha1', hex: oid }
  return { path, size: lfs?.size ?? size, hash }
}

/** What the package may call: our request, repeated where that helps, its answer held within bounds. */
function hubFetch(connection: Connection, subject: Subject): typeof fetch {
  return (input) => {
    const url = input instanceof Request ? input.url : String(input)
    const ask = () =>
      withAnswer(url, { accept: 'application/json' }, connection, subject, async ({ headers, chunks }) => {
        const pieces: Uint8Array[] = []
        let length = 0
        for await (const piece of chunks()) {
          length += piece.length
          if (length > largestAnswer) throw new ClaraError(`The hub's answer about ${subject.name} is too long.`)
          pieces.push(piece)
        }
        return new Response(Buffer.concat(pieces), { headers })
      })
    // Before anything has worked, waiting would only hide that the machine is offline.
    return withRetries(connection, ask, { repeats: (error) => !error.unreachable })
  }
}

async function explained<T>(subject: Subject, endpoint: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof z.ZodError || error instanceof TypeError) {
      throw new ClaraError(`${endpoint} does not answer as a hub does when asked for ${subject.name}.`, {
        hint: 'Is HF_ENDPOINT right, and no sign-in page of a network in between?',
        cause: error,
      })
    }
    throw error
  }
}
