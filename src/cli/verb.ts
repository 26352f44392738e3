import type { z } from 'zod'
import type { TextStyle } from './terminal.ts'

/** How a verb ended, where that was no error: all done, not all of it, or nothing found. */
export type Outcome = 'done' | 'failed' | 'nothing'

/** What a verb gets besides its values: where to write, how to look, when to stop. */
export interface VerbContext {
  /** `--json` was given: standard output carries one JSON object and nothing else. */
  readonly json: boolean
  /** Colours and width of standard output. */
  readonly style: TextStyle
  /** Whether `status` shows anything: standard error is a terminal. */
  readonly interactive: boolean
  /** Aborts at the first Ctrl-C or SIGTERM. Save what must be saved, then return or throw its reason. */
  readonly signal: AbortSignal
  /** Writes text to standard output as it is, for streamed answers; nothing with `--json`. */
  write(text: string): void
  /** Writes a line to standard output; nothing with `--json`. */
  print(line: string): void
  /** Writes a line to standard error, with or without `--json`: notes, warnings, log lines. */
  note(line: string): void
  /** Shows a line at the bottom of the terminal that the next one replaces, for progress; nothing when not interactive. */
  status(line: string): void
  /** Says that the verb ended otherwise than `done`: it decides the exit status. */
  end(how: Outcome): void
  /** The verb's result for `--json`, to be called once; nothing without `--json`. */
  report(result: object): void
}

/**
 * A verb of the command line, as its module exports it: `src/cli/<verb>.ts` has the exports `summary`, `options`,
 * `positionals` and `run`. A verb module imports what is heavy inside `run`, so that its `--help` stays quick.
 */
export interface Verb {
  /** One line for the list of verbs; the same as in the table. */
  readonly summary: string
  /**
   * One flag per key: `topK` becomes `--top-k`. Booleans, numbers, strings, enums and lists of those (by repeating the
   * flag); each with `.describe()`. Defaults are written here and nowhere else. `json` and `help` are taken.
   */
  readonly options: z.ZodObject
  /** Keys of `options` that may also be given by place, without their flag; the last one may be a list and takes the rest. */
  readonly positionals: readonly string[]
  /**
   * @param values The parsed options: `z.infer<typeof options>` in the module.
   * @throws ClaraError for what the user can mend: printed without a stack, exit status 1.
   */
  run(values: Record<string, unknown>, context: VerbContext): Promise<void>
}

/** A line of the table of verbs: what `clara --help` needs, and how to load the rest. */
export interface VerbEntry {
  readonly summary: string
  readonly load: () => Promise<Verb>
}

/** Verbs by name, in the order in which help lists them. */
export type VerbTable = Readonly<Record<string, VerbEntry>>
