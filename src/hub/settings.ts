import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { ClaraError } from '../errors.ts'

export type Environment = Readonly<Record<string, string | undefined>>

/** Where models come from and where they are kept, by the variables that the Hugging Face tools share. */
export interface HubSettings {
  /** The hub's address without a slash at its end. */
  readonly endpoint: string
  /** Folder that holds `models--ORG--NAME`. */
  readonly cacheFolder: string
  /** Sent to the endpoint's own origin and nowhere else. */
  readonly token: string | undefined
  /** No request may be made. */
  readonly offline: boolean
}

/**
 * Reads `HF_ENDPOINT`, `HF_HUB_CACHE` (or `HF_HOME`, or `XDG_CACHE_HOME`), `HF_TOKEN` and `HF_HUB_OFFLINE`.
 *
 * @throws ClaraError when the endpoint is no address, or the token holds what no request can carry.
 */
export function hubSettings(environment: Environment): HubSettings {
  return {
    endpoint: endpointOf(given(environment, 'HF_ENDPOINT') ?? 'https://huggingface.co'),
    cacheFolder: cacheFolderOf(environment),
    token: tokenOf(environment),
    offline: /^(1|on|yes|true)$/i.test(given(environment, 'HF_HUB_OFFLINE') ?? ''),
  }
}

/** The cache's folder; it need not exist. */
export function cacheFolderOf(environment: Environment): string {
  const cache = given(environment, 'HF_HUB_CACHE') ?? given(environment, 'HUGGINGFACE_HUB_CACHE')
  if (cache !== undefined) return atHome(cache)
  const home = given(environment, 'HF_HOME')
  if (home !== undefined) return join(atHome(home), 'hub')
  return join(atHome(given(environment, 'XDG_CACHE_HOME') ?? '~/.cache'), 'huggingface', 'hub')
}

/** A variable that is set to nothing counts as not set. */
function given(environment: Environment, name: string): string | undefined {
  const value = environment[name]?.trim()
  return value === '' ? undefined : value
}

function atHome(path: string): string {
  return resolve(path.replace(/^~(?=$|[/\\])/, homedir()))
}

function endpointOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url && /^https?:$/.test(url.protocol) && url.username === '' && url.search === '' && url.hash === '') {
    return url.href.replace(/\/+$/, '')
  }
  throw new ClaraError('HF_ENDPOINT is no address of a hub.', {
    expected: 'an http or https address without user name or query',
    // An address may carry a password.
    received: url === undefined ? JSON.stringify(text) : `${url.protocol}//${url.host}`,
  })
}

function tokenOf(environment: Environment): string | undefined {
  const token = given(environment, 'HF_TOKEN')
  if (token === undefined || /^[\x21-\x7e]+$/.test(token)) return token
  throw new ClaraError('HF_TOKEN holds characters that no token has.', {
    expected: 'one word of plain characters',
    hint: 'Copy it again from the settings page of the hub.',
  })
}
