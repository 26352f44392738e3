import { constants } from 'node:fs'
import { access, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { ClaraError } from '../../errors.ts'
import type { StoreDescription } from '../store.ts'
import { checkDescription, isPlainObject } from '../validation.ts'

/*
 * A store's folder: `store.json` says what it is and is written last, so that a folder without it holds nothing yet; `data/` is LanceDB's;
 * `writer.lock` is there while somebody writes, `index.lock` while somebody builds an index, `readers/` has a note of everybody who reads an older version.
 */

const FORMAT = 'clara-store'
/** No description is larger; a file that is, is not one. */
const LARGEST_DESCRIPTION = 64 * 2 ** 20

export interface StoreFile {
  readonly schemaVersion: unknown
  readonly description: StoreDescription
}

export const writerLock = (folder: string) => join(folder, 'writer.lock')
export const indexLock = (folder: string) => join(folder, 'index.lock')
export const readersFolder = (folder: string) => join(folder, 'readers')
export const dataFolder = (folder: string) => join(folder, 'data')
/** The late-interaction index: made from the data, and made again where it is missing. */
export const lateFile = (folder: string) => join(folder, 'late.index')
const storeFile = (folder: string) => join(folder, 'store.json')

/**
 * What a folder holds; undefined when there is no store in it yet.
 * @throws ClaraError when it is no folder, holds something else, or its description is damaged.
 */
export async function readStoreFile(folder: string): Promise<StoreFile | undefined> {
  const path = storeFile(folder)
  let content: string
  try {
    if ((await stat(path)).size > LARGEST_DESCRIPTION) throw notAStore(path, 'a file of its size')
    content = await readFile(path, 'utf8')
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    if (codeOf(error) === 'ENOTDIR') throw new ClaraError(`"${folder}" is a file.`, { expected: "a store's folder" })
    throw explained(folder, error)
  }
  const parsed = parse(content)
  if (!isPlainObject(parsed) || parsed.format !== FORMAT || !isPlainObject(parsed.description)) {
    throw notAStore(path, content.slice(0, 60))
  }
  const { fingerprint, memoryWidth, vectorWidth, details } = parsed.description
  const description = { fingerprint, memoryWidth, vectorWidth, ...(details === undefined ? {} : { details }) }
  checkDescription(description as StoreDescription)
  return { schemaVersion: parsed.schemaVersion, description: description as StoreDescription }
}

/** Writes what the folder holds, whole or not at all. */
export async function writeStoreFile(folder: string, { schemaVersion, description }: StoreFile): Promise<void> {
  const path = storeFile(folder)
  const temporary = `${path}.${process.pid}.tmp`
  try {
    const handle = await open(temporary, 'w')
    try {
      await handle.writeFile(`${JSON.stringify({ format: FORMAT, schemaVersion, description })}\n`)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    throw explained(folder, error)
  }
}

/**
 * Makes the folder for a new store, and clears what an interrupted making left.
 * @throws ClaraError when there is something else in it.
 */
export async function prepareFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true })
    const foreign = (await readdir(folder)).filter(
      (name) =>
        name !== 'data' && name !== 'readers' && !/^(writer|index)\.lock|^store\.json\.|^late\.index/.test(name),
    )
    if (foreign.length > 0) {
      throw new ClaraError(`The folder "${folder}" holds no store, but other files.`, {
        expected: 'a store, an empty folder, or none',
        received: foreign.slice(0, 3).join(', '),
        hint: 'Choose another folder.',
      })
    }
  } catch (error) {
    throw explained(folder, error)
  }
}

/** @throws ClaraError when nothing can be written into the folder. */
export async function checkWritable(folder: string): Promise<void> {
  try {
    await access(folder, constants.W_OK)
  } catch (error) {
    throw explained(folder, error)
  }
}

/** An error of the system or of LanceDB as the user should see it; any other as it is. */
export function explained(folder: string, error: unknown): unknown {
  if (error instanceof ClaraError || !(error instanceof Error)) return error
  const known = causes.find(({ code, text }) => code.includes(codeOf(error) ?? '') || text.test(error.message))
  if (known !== undefined)
    return new ClaraError(`The store "${folder}" ${known.problem}`, { hint: known.hint, cause: error })
  return new ClaraError(`The store "${folder}" failed.`, {
    received: JSON.stringify(briefly(error)),
    hint: 'Verify the store to see whether it is damaged.',
    cause: error,
  })
}

/** The part of an error's message that means something to others than its authors. */
export function briefly(error: unknown): string {
  const [line = ''] = (error instanceof Error ? error.message : String(error)).split('\n')
  return line.replace(/, \/\S*\.rs:\d+:\d+.*$/, '').slice(0, 400)
}

/** Whether an error says that a file is not there. */
export function isMissing(error: unknown): boolean {
  return error instanceof Error && (codeOf(error) === 'ENOENT' || /Not found|No such file/i.test(error.message))
}

const causes: readonly { code: readonly string[]; text: RegExp; problem: string; hint: string }[] = [
  {
    code: ['ENOSPC', 'EDQUOT', 'EFBIG'],
    text: /No space left on device|Disk quota exceeded|File too large/i,
    problem: 'could not be written: the disk is full.',
    hint: 'What was acknowledged is safe. Free some space and add the rest again.',
  },
  {
    code: ['EACCES', 'EPERM', 'EROFS'],
    text: /Permission denied|Read-only file system|Operation not permitted/i,
    problem: 'may not be written.',
    hint: 'Reading works. To write, change the permissions of the folder or copy it to where you may write.',
  },
  {
    code: [],
    text: /fill whole buffer|unexpected end of file|Encountered corrupt|Invalid magic/i,
    problem: 'has a damaged file.',
    hint: 'Verify it to see which rows are lost; verifying with repair makes the rest usable again.',
  },
  {
    code: ['ENOENT'],
    text: /Not found|No such file or directory/i,
    problem: 'lacks a file.',
    hint: 'Verify it to see which rows are lost. If another program deleted the folder, open the store again.',
  },
]

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

function parse(content: string): unknown {
  try {
    return JSON.parse(content)
  } catch {
    return undefined
  }
}

function notAStore(path: string, received: string): ClaraError {
  return new ClaraError(`"${path}" does not describe a store.`, {
    expected: `a JSON file with format "${FORMAT}"`,
    received: JSON.stringify(received),
    hint: 'Restore the file from a copy, or choose another folder.',
  })
}
