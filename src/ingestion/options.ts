import { z } from 'zod'
import { ClaraError } from '../errors.ts'

const MIB = 1024 * 1024

/** Bounds against files that are broken or meant to harm. */
export const readLimitsSchema = z.strictObject({
  /** Largest text, Markdown, HTML or code file, in bytes. CSV and JSON lines have no limit. */
  bytes: z
    .int()
    .min(1)
    .default(32 * MIB),
  /** Largest PDF or Word file, in bytes. */
  documentBytes: z
    .int()
    .min(1)
    .default(256 * MIB),
  /** Most pages of a PDF. */
  pages: z.int().min(1).default(10_000),
  /** Longest record of a CSV or JSON lines file, in bytes. */
  recordBytes: z
    .int()
    .min(1)
    .default(4 * MIB),
  /** Largest Word document after unpacking, in bytes. */
  unpackedBytes: z
    .int()
    .min(1)
    .default(64 * MIB),
  /** Most characters of a document's text. */
  characters: z
    .int()
    .min(1)
    .default(64 * MIB),
  /** Seconds that reading one PDF, Word or HTML file may take. */
  seconds: z.number().positive().default(120),
  /** Memory that reading one PDF, Word or HTML file may take, in MiB, with the 100 or so that the reading process has anyway. */
  memoryMiB: z.int().min(128).default(1024),
})
export type ReadLimits = z.output<typeof readLimitsSchema>

/** Which columns of a CSV file, or keys of JSON lines, are what. Absent ones are found by their usual names. */
export const fieldsSchema = z.strictObject({
  /** Default: `id` or `_id`, else the record's number. */
  id: z.string().min(1).optional(),
  /** Several are joined, an empty line between them. Default: `text`, `content`, `contents`, `body`, `passage`, `abstract` or `page_content`. */
  text: z.union([z.string().min(1), z.array(z.string().min(1)).min(1)]).optional(),
  /** Default: `title`, `name`, `headline` or `subject`. */
  title: z.string().min(1).optional(),
  /** Default: all others. */
  metadata: z.array(z.string().min(1)).optional(),
})
export type Fields = z.output<typeof fieldsSchema>

export const readerNames = ['text', 'markdown', 'html', 'pdf', 'docx', 'csv', 'jsonl', 'code'] as const
export type ReaderName = (typeof readerNames)[number]

/** How files are read. */
export const readOptionsSchema = z.strictObject({
  /** Reads every file this way, whatever its name says. Default: by the extension, else by the content. */
  reader: z.enum(readerNames).optional(),
  fields: fieldsSchema.prefault({}),
  /** Column separator of CSV files. Default: the one of `,`, `;`, tab and `|` that the first line has most of. */
  delimiter: z.string().length(1).optional(),
  limits: readLimitsSchema.prefault({}),
})
export type ReadOptions = z.output<typeof readOptionsSchema>

/** Which files of a folder are read. Globs are relative to the folder; one without `/` matches a file of that name at any depth. */
export const folderOptionsSchema = z.strictObject({
  /** Only files that match one of these. */
  include: z.array(z.string().min(1)).default([]),
  /** No files or folders that match one of these, in the syntax of .gitignore. */
  exclude: z.array(z.string().min(1)).default([]),
  /** Whether names that begin with a dot are read. */
  hidden: z.boolean().default(false),
  /** Whether .gitignore, .ignore and .claraignore, in the folder and below, are obeyed, and node_modules, lock files and the like left out. */
  ignoreFiles: z.boolean().default(true),
  /** Whether symbolic links are followed, as far as they stay inside the folder. Each folder is then entered once. */
  followLinks: z.boolean().default(false),
})
export type FolderOptions = z.output<typeof folderOptionsSchema>

/**
 * Options with their defaults.
 * @throws ClaraError that names the option.
 */
export function parseOptions<Schema extends z.ZodType>(
  schema: Schema,
  options: unknown,
  subject: string,
): z.output<Schema> {
  const parsed = schema.safeParse(options)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  const place = issue === undefined || issue.path.length === 0 ? 'they' : `"${issue.path.join('.')}"`
  throw new ClaraError(`The options of ${subject} are not right: ${place}: ${issue?.message ?? 'unknown'}.`)
}
