/** What a name from outside may look like before it becomes part of a path or an address. */
import { ClaraError } from '../errors.ts'

const namePart = '[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?'
const repositoryName = new RegExp(`^${namePart}(?:/${namePart})?$`)
const commitHash = /^[0-9a-f]{40}$/

/**
 * The published checkpoints name their base by a path of the machine that trained them. The last part of such a path is looked up
 * here, and nowhere else: a name that anybody could register must not choose what is fetched.
 */
const knownBases: Readonly<Record<string, string>> = {
  'Mistral-7B-Instruct-v0.2': 'mistralai/Mistral-7B-Instruct-v0.2',
  'Phi-4-mini-instruct': 'microsoft/Phi-4-mini-instruct',
}

/** Whether the text can be a model's name on the hub, `ORG/NAME` or `NAME`. */
export function isHubName(text: string): boolean {
  // The cache's folders write "/" as "--".
  return repositoryName.test(text) && !text.includes('--') && !text.includes('..')
}

/**
 * The hub's name for a base model as a checkpoint gives it.
 *
 * @param name `decoder_model_name`: a name on the hub, or a path whose last part is that of a known base.
 * @returns undefined where it is neither.
 */
export function baseOnHub(name: string): string | undefined {
  if (isHubName(name)) return name
  const last = name.split(/[/\\]/).at(-1) ?? ''
  return Object.hasOwn(knownBases, last) ? knownBases[last] : undefined
}

export function checkHubName(name: string): void {
  if (isHubName(name)) return
  throw new ClaraError(`${JSON.stringify(name)} is no name of a model on the hub.`, {
    expected: 'ORGANISATION/NAME, such as apple/CLaRa-7B-Instruct',
  })
}

export const isCommit = (text: string): boolean => commitHash.test(text)

/** A branch, a tag, a pull request (`refs/pr/1`) or a commit; it becomes a file's name under `refs/`. */
export function isRevision(text: string): boolean {
  return text.length <= 200 && text.split('/').every((part) => /^[\w+@=,#-][\w.+@=,#-]*$/.test(part))
}

export function checkRevision(text: string): void {
  if (isRevision(text)) return
  throw new ClaraError(`${JSON.stringify(text)} is no revision.`, { expected: 'a branch, a tag or a commit' })
}

/**
 * Whether a path of a repository names a file of the repository on every system: relative, with "/", no part that leads upwards, that
 * Windows reserves, or that a terminal or a file system would take for something else.
 */
export function isSafePath(path: string): boolean {
  return path.length <= 500 && path.split('/').every(isSafePart)
}

function isSafePart(part: string): boolean {
  if (!/^[\w.+@=,()[\] -]{1,200}$/.test(part)) return false
  if (/^\.+$|[. ]$|^ /.test(part)) return false
  return !/^(con|prn|aux|nul|com\d|lpt\d)(\.|$)/i.test(part)
}

/** Whether a path leads out of the folder that it is relative to: no repository has such a file. */
export function leadsOut(path: string): boolean {
  return /^[/\\]|^[A-Za-z]:|\0/.test(path) || path.split(/[/\\]/).includes('..')
}
