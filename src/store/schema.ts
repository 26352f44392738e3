import { ClaraError } from '../errors.ts'

/** How stores lie on the disk or in the database today. A change to any column or file raises it and adds a step to the driver's migrations. */
export const SCHEMA_VERSION = 2

/** Stores from this version on lie as today's do, and are opened as they are. Since version 2 a store may keep no retrieval vectors, which older programs refuse. */
export const UNCHANGED_SINCE = 1

/** A step from schema version `from` to the next one. Run under the writer's lock; it may be cut off and run again. */
export interface Migration<Target> {
  readonly from: number
  readonly run: (target: Target) => Promise<void>
}

/**
 * Brings a store from the schema version it was found with to this program's, step by step; after each the new version is recorded, so that
 * an interruption costs one step.
 *
 * @param name The store, as in 'The store "kb"'.
 * @throws ClaraError when the store is newer than this program, or its version is unknown.
 */
export async function migrate<Target>(
  name: string,
  found: number,
  target: Target,
  migrations: readonly Migration<Target>[],
  record: (version: number) => Promise<void>,
  wanted: number = SCHEMA_VERSION,
): Promise<void> {
  checkSchemaVersion(name, found, wanted)
  for (let version = found; version < wanted; version++) {
    const step = migrations.find(({ from }) => from === version)
    if (step === undefined) throw new RangeError(`There is no migration from schema version ${version}.`)
    await step.run(target)
    await record(version + 1)
  }
}

/** @throws ClaraError when the store is newer than this program, or its version is no version. */
export function checkSchemaVersion(name: string, found: unknown, wanted: number = SCHEMA_VERSION): void {
  if (typeof found === 'number' && Number.isSafeInteger(found) && found >= 1 && found <= wanted) return
  const newer = typeof found === 'number' && found > wanted
  throw new ClaraError(
    newer ? `${name} was written by a newer version of this program.` : `${name} has no valid schema version.`,
    {
      expected: `schema version 1 to ${wanted}`,
      received: JSON.stringify(found) ?? 'none',
      hint: newer
        ? 'Install the newest version, or export the store with the version that wrote it.'
        : 'Its description is damaged: restore it from a copy.',
    },
  )
}
