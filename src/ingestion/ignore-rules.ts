import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import ignore from 'ignore'
import picomatch from 'picomatch'
import type { FolderOptions } from './options.ts'
import { isBinaryName } from './readers/choose.ts'

/** Files whose patterns say what is not read; where two disagree, the later name wins. */
export const ignoreFileNames = ['.gitignore', '.ignore', '.claraignore'] as const
/** An ignore file beyond this is no ignore file. */
const LARGEST_IGNORE_FILE = 256 * 1024
/** Left out unless ignoreFiles is off: what package managers fetched, and what programs wrote for programs. */
const ALWAYS = [
  ...['node_modules/', 'bower_components/', '__pycache__/', '.venv/', 'venv/'],
  ...[
    'package-lock.json',
    'npm-shrinkwrap.json',
    'yarn.lock',
    'pnpm-lock.yaml',
    'bun.lock',
    'Cargo.lock',
    'poetry.lock',
  ],
  ...['uv.lock', 'composer.lock', 'Gemfile.lock', 'go.sum', '*.min.js', '*.min.css', '*.map'],
]

/** The patterns that hold in one folder, after those of the folders around it. */
export interface Layer {
  /** Path of the folder below the root, with a slash at its end; empty for the root. */
  readonly prefix: string
  readonly patterns: Patterns
}

interface Patterns {
  readonly test: (path: string) => { readonly ignored: boolean; readonly unignored: boolean }
}

/** The library remembers every path that it was asked about: after so many, it is made anew. */
const MOST_REMEMBERED = 10_000

function patternsOf(lines: string): Patterns {
  // file names are told apart by case, as git does
  const create = () => ignore({ allowRelativePaths: true, ignorecase: false }).add(lines)
  let matcher = create()
  let asked = 0
  return {
    test(path) {
      if (++asked % MOST_REMEMBERED === 0) matcher = create()
      return matcher.test(path)
    },
  }
}

/** Decides about names; knows nothing of what is on disk. */
export interface Rules {
  /**
   * Why an entry is left out, undefined when it is not. Whoever asks has asked about the folders around it.
   * @param path below the root, with forward slashes.
   */
  readonly reason: (path: string, isFolder: boolean, layers: readonly Layer[]) => string | undefined
}

export function createRules({ include, exclude, hidden, ignoreFiles }: FolderOptions): Rules {
  const excluded = patternsOf([...(ignoreFiles ? ALWAYS : []), ...exclude].join('\n'))
  const included =
    include.length === 0
      ? undefined
      : picomatch(
          // as .gitignore has it: a pattern without a slash is about the name
          include.map((glob) => (glob.includes('/') ? glob.replace(/^\.?\//, '') : `**/${glob}`)),
          // names may have line ends in them
          { dot: true, flags: 's' },
        )
  return {
    reason(path, isFolder, layers) {
      const name = path.slice(path.lastIndexOf('/') + 1)
      if (!hidden && name.startsWith('.')) return 'hidden'
      const asked = isFolder ? `${path}/` : path
      if (excluded.test(asked).ignored) return 'excluded'
      if (ignoreFiles && ignoredBy(layers, asked)) return 'ignored'
      if (isFolder) return undefined
      if (included && !included(path)) return 'not included'
      return isBinaryName(name) ? 'binary' : undefined
    },
  }
}

/** The innermost folder whose patterns say anything decides. */
function ignoredBy(layers: readonly Layer[], path: string): boolean {
  for (const { prefix, patterns } of [...layers].reverse()) {
    if (!path.startsWith(prefix)) continue
    const below = path.slice(prefix.length)
    const [, folder = '', name = ''] = /^((?:[^/]*\/)*)([^/]+\/?)$/.exec(below) ?? []
    // the folder was entered all the same, since an inner one brought it back: only what is said of the name itself counts
    const isBroughtBack = folder !== '' && patterns.test(folder).ignored
    const { ignored, unignored } = patterns.test(isBroughtBack ? name : below)
    if (ignored || unignored) return ignored
  }
  return false
}

/** The patterns of the ignore files in a folder; undefined when there are none. */
export async function readLayer(folder: string, prefix: string): Promise<Layer | undefined> {
  const texts: string[] = []
  for (const name of ignoreFileNames) {
    const text = await readSmall(join(folder, name))
    if (text !== undefined) texts.push(text)
  }
  return texts.length === 0 ? undefined : { prefix, patterns: patternsOf(texts.join('\n')) }
}

async function readSmall(path: string): Promise<string | undefined> {
  try {
    const handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0))
    try {
      const stat = await handle.stat()
      return stat.isFile() && stat.size <= LARGEST_IGNORE_FILE ? await handle.readFile('utf8') : undefined
    } finally {
      await handle.close()
    }
  } catch {
    return undefined
  }
}
