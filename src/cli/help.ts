import { type Flag, flagsOf } from './flags.ts'
import { type TextStyle, wrap } from './terminal.ts'
import type { Verb, VerbTable } from './verb.ts'

/* The texts of `--help`. `docs/cli.md` is made of the same. */

const widest = 100

/** What `clara --help` prints: the verbs, without loading any. */
export function programHelp(verbs: VerbTable, style: TextStyle): string {
  const rows: Row[] = [
    ...Object.entries(verbs).map(([name, { summary }]): Row => [name, summary]),
    ['help', 'Show this text, or that of a verb: clara help VERB'],
    ['version', 'Show the version'],
  ]
  return [
    'Compress documents once into memory tokens; retrieve and answer in the same latent space.',
    '',
    style.paint('bold', 'Usage'),
    '  clara VERB [flags]',
    '',
    style.paint('bold', 'Verbs'),
    ...columns(rows, style),
    '',
    ...wrap('Each verb has --help and --json (one JSON object on standard output).', Math.min(style.width, widest)),
    ...wrap(
      'Settings can stand in clara.config.json, in the current folder or where CLARA_CONFIG says, by the names of the flags in camel case ({ "store": "./kb", "topK": 3 }), and in the environment (CLARA_STORE, CLARA_TOP_K, …). Flags come before the environment, this before the file.',
      Math.min(style.width, widest),
    ),
    '',
    ...wrap(
      'Exit status: 0 done, 1 failed, wholly or in part, 2 wrong usage, 3 nothing relevant found, 130 interrupted.',
      Math.min(style.width, widest),
    ),
  ].join('\n')
}

/** What `clara VERB --help` prints. */
export function verbHelp(name: string, verb: Verb, style: TextStyle): string {
  const flags = flagsOf(verb)
  const byPlace = verb.positionals
    .map((key) => flags.find((flag) => flag.key === key))
    .filter((flag) => flag !== undefined)
  const usage = ['clara', name, ...byPlace.map(placeHolder), '[flags]'].join(' ')
  const rows: Row[] = [
    ...flags.map((flag): Row => [flagForm(flag), flagText(flag)]),
    ['--json', 'Print the result as one JSON object'],
    ['--help', 'Show this text'],
  ]
  return [
    ...wrap(verb.summary, Math.min(style.width, widest)),
    '',
    style.paint('bold', 'Usage'),
    `  ${usage}`,
    '',
    style.paint('bold', 'Flags'),
    ...columns(rows, style),
  ].join('\n')
}

type Row = readonly [left: string, right: string]

function placeHolder(flag: Flag): string {
  const name = `${flag.name.toUpperCase()}${flag.repeated ? ' …' : ''}`
  return flag.required ? name : `[${name}]`
}

function flagForm(flag: Flag): string {
  // A boolean that is on by default is of use only as its opposite.
  if (flag.kind === 'boolean') return flag.defaultValue === true ? `--no-${flag.name}` : `--${flag.name}`
  const value = flag.choices?.join('|') ?? (flag.kind === 'number' ? 'NUMBER' : 'TEXT')
  return `--${flag.name} ${value}`
}

function flagText(flag: Flag): string {
  const notes: string[] = []
  if (flag.required) notes.push('required')
  if (flag.repeated) notes.push('may be repeated')
  const hasDefault =
    flag.defaultValue !== undefined && !(Array.isArray(flag.defaultValue) && flag.defaultValue.length === 0)
  if (hasDefault && flag.kind !== 'boolean') notes.push(`default ${[flag.defaultValue].flat().join(', ')}`)
  if (flag.kind === 'boolean' && flag.defaultValue === true) notes.push('on by default')
  return notes.length === 0 ? flag.description : `${flag.description} (${notes.join('; ')})`
}

/** Two columns; a left side that is too long gets a line of its own. */
function columns(rows: readonly Row[], style: TextStyle): string[] {
  const width = Math.min(style.width, widest)
  const left = Math.min(28, Math.max(...rows.map(([name]) => name.length)))
  return rows.flatMap(([name, text]) => {
    const lines = wrap(text, Math.max(20, width - left - 4))
    const indented = lines.map((line) => `${' '.repeat(left + 4)}${line}`)
    if (name.length > left) return [`  ${style.paint('cyan', name)}`, ...indented]
    const padding = ' '.repeat(left - name.length + 2)
    return [`  ${style.paint('cyan', name)}${padding}${lines[0] ?? ''}`, ...indented.slice(1)]
  })
}
