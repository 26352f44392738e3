/** Which files of a repository a model needs. */
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import type { HubFile } from './listing.ts'
import { isSafePath } from './names.ts'

/** Settings and tokenizer; a model has some of them. */
const smallFiles = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'tokenizer.model',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'chat_template.jinja',
  'chat_template.json',
]
const checkpointFiles = ['adapters.pth', 'decoder_first_last_layers.pth']
const indexFile = 'model.safetensors.index.json'
const singleFile = 'model.safetensors'

export interface Selection {
  /** A CLaRa checkpoint in the published layout, or a model with weights of its own. */
  readonly kind: 'checkpoint' | 'model'
  readonly files: readonly HubFile[]
  /** Names the files that hold the weights; it is among `files`, and they are not. */
  readonly index: HubFile | undefined
}

/**
 * Chooses the files of one folder of a repository: what a CLaRa checkpoint consists of, or the settings, tokenizer and safetensors
 * weights of a model. Formats that hold the same weights again are left out.
 *
 * @throws ClaraError when the folder holds neither, or a chosen file has a name that is no safe path.
 */
export function selectFiles(name: string, files: readonly HubFile[], subfolder: string | undefined): Selection {
  const byName = new Map<string, HubFile>()
  for (const file of files) {
    const { folder, base } = split(file.path)
    if (folder === (subfolder ?? '')) byName.set(base, file)
  }
  const place = subfolder === undefined ? name : `folder ${JSON.stringify(subfolder)} of ${name}`
  if (!byName.has('config.json')) throw noModel(place, files, subfolder)
  const chosen = (names: readonly string[]) =>
    names.flatMap((base) => byName.get(base) ?? []).map((file) => safeFile(name, file))
  if (byName.has('adapters.pth')) {
    return { kind: 'checkpoint', files: chosen([...smallFiles, ...checkpointFiles]), index: undefined }
  }
  const index = byName.get(indexFile)
  if (index) return { kind: 'model', files: chosen([...smallFiles, indexFile]), index }
  const weights = byName.has(singleFile)
    ? [singleFile]
    : [...byName.keys()].filter((base) => base.endsWith('.safetensors'))
  if (weights.length === 0) {
    throw new ClaraError(`There are no safetensors weights in ${place}.`, {
      expected: `adapters.pth, ${singleFile} or ${indexFile}`,
      received: [...byName.keys()].slice(0, 10).join(', '),
    })
  }
  return { kind: 'model', files: chosen([...smallFiles, ...weights]), index: undefined }
}

const indexContent = z.looseObject({ weight_map: z.record(z.string(), z.string()) })
const largestIndex = 64 << 20

/**
 * The files that an index names.
 *
 * @param path Where the index lies now.
 * @throws ClaraError when it is no index, or names a file that is not in its folder of the repository.
 */
export async function shardsOf(
  name: string,
  index: HubFile,
  path: string,
  files: readonly HubFile[],
): Promise<HubFile[]> {
  const parsed = indexContent.safeParse(index.size > largestIndex ? undefined : await readJson(path))
  if (!parsed.success) throw new ClaraError(`"${index.path}" of ${name} is no index of safetensors files.`)
  const { folder } = split(index.path)
  const names = [...new Set(Object.values(parsed.data.weight_map))].sort()
  return names.map((base) => {
    if (/[/\\]/.test(base) || !base.endsWith('.safetensors')) {
      throw new ClaraError(`"${index.path}" of ${name} names ${JSON.stringify(base)} as a file of weights.`, {
        expected: 'the name of a .safetensors file beside it',
      })
    }
    const wanted = folder === '' ? base : `${folder}/${base}`
    const file = files.find((candidate) => candidate.path === wanted)
    if (file) return safeFile(name, file)
    throw new ClaraError(`${name} lacks "${wanted}", which its index names.`, {
      hint: 'The repository is incomplete: another revision may be whole.',
    })
  })
}

/** Undefined where the file is not JSON. */
export async function readJson(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, 'utf8'))
  } catch {
    return undefined
  }
}

function split(path: string): { folder: string; base: string } {
  const at = path.lastIndexOf('/')
  return at < 0 ? { folder: '', base: path } : { folder: path.slice(0, at), base: path.slice(at + 1) }
}

function safeFile(name: string, file: HubFile): HubFile {
  if (isSafePath(file.path)) return file
  throw new ClaraError(`${name} has a file whose name is refused: ${JSON.stringify(file.path)}.`, {
    expected: 'letters, digits, spaces and . _ - + @ = , ( ) [ ], and no name that a system reserves',
  })
}

function noModel(place: string, files: readonly HubFile[], subfolder: string | undefined): ClaraError {
  const folders = files
    .map(({ path }) => split(path))
    .filter(({ folder, base }) => base === 'config.json' && folder !== (subfolder ?? ''))
    .map(({ folder }) => folder)
  const [first] = folders.filter((folder) => folder !== '')
  return new ClaraError(`There is no model in ${place}.`, {
    expected: 'a config.json',
    ...(folders.length === 0
      ? {}
      : { received: `config.json in ${folders.map((folder) => folder || 'the top folder').join(', ')}` }),
    ...(first === undefined ? {} : { hint: `Choose one with --subfolder, such as --subfolder ${first}.` }),
  })
}
