import { z } from 'zod'
import type { Flag } from './flags.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Print what completes clara in a shell'

const shells = ['bash', 'zsh', 'fish'] as const

export const options = z.strictObject({
  shell: z
    .enum(shells)
    .describe(
      'The shell. To switch it on: eval "$(clara completion bash)" in ~/.bashrc, eval "$(clara completion zsh)" in ~/.zshrc, clara completion fish | source in config.fish',
    ),
})

export const positionals = ['shell']

/** A verb as a shell sees it. */
interface Completed {
  readonly name: string
  readonly summary: string
  readonly flags: readonly Flag[]
}

export async function run({ shell }: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const [{ verbs }, { flagsOf }] = await Promise.all([import('./verbs.ts'), import('./flags.ts')])
  const completed = await Promise.all(
    Object.entries(verbs).map(async ([name, { summary, load }]) => ({ name, summary, flags: flagsOf(await load()) })),
  )
  const script = { bash, zsh, fish }[shell](completed)
  context.write(script)
  context.report({ shell, script })
}

const names = ({ flags }: Completed) => [
  ...flags.map((flag) =>
    flag.kind === 'boolean' && flag.defaultValue === true ? `--no-${flag.name}` : `--${flag.name}`,
  ),
  '--json',
  '--help',
]

function bash(verbs: readonly Completed[]): string {
  const choices = verbs.flatMap(({ name, flags }) =>
    flags.flatMap(({ name: flag, choices: values }) =>
      values === undefined
        ? []
        : [`    '${name} --${flag}') COMPREPLY=($(compgen -W '${values.join(' ')}' -- "$word")); return ;;`],
    ),
  )
  return `_clara() {
  local word=\${COMP_WORDS[COMP_CWORD]} verb=\${COMP_WORDS[1]} flags
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '${[...verbs.map(({ name }) => name), 'help', 'version'].join(' ')}' -- "$word"))
    return
  fi
  case "$verb \${COMP_WORDS[COMP_CWORD - 1]}" in
${choices.join('\n')}
  esac
  case "$verb" in
${verbs.map((verb) => `    ${verb.name}) flags='${names(verb).join(' ')}' ;;`).join('\n')}
    help) flags='${verbs.map(({ name }) => name).join(' ')}' ;;
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$flags" -- "$word")) ;;
    *) [ "$verb" = help ] && COMPREPLY=($(compgen -W "$flags" -- "$word")) || COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}
complete -o filenames -F _clara clara
`
}

/** In single quotes of a shell; in zsh, a colon in front of a description is escaped. */
const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`
const described = (name: string, text: string) => quoted(`${name.replaceAll(':', '\\:')}:${firstSentence(text)}`)
const firstSentence = (text: string) => text.split(/\. |; |: /)[0] ?? ''

function zsh(verbs: readonly Completed[]): string {
  const flagsOf = (verb: Completed) => {
    const texts = [
      ...verb.flags.map(({ description }) => description),
      'Print the result as one JSON object',
      'Show help',
    ]
    return names(verb).map((name, index) => described(name, texts[index] ?? ''))
  }
  return `#compdef clara
_clara() {
  local -a verbs flags
  verbs=(
${verbs.map(({ name, summary }) => `    ${described(name, summary)}`).join('\n')}
  )
  if (( CURRENT == 2 )); then _describe 'verb' verbs; return; fi
  case "$words[2]" in
${verbs.map((verb) => `    ${verb.name}) flags=(${flagsOf(verb).join(' ')}) ;;`).join('\n')}
    help) _describe 'verb' verbs; return ;;
  esac
  if [[ "$PREFIX" == -* ]]; then _describe 'flag' flags; else _files; fi
}
compdef _clara clara
`
}

function fish(verbs: readonly Completed[]): string {
  const lines = verbs.flatMap(({ name, summary, flags }) => [
    `complete -c clara -n __fish_use_subcommand -f -a ${name} -d ${quoted(summary)}`,
    ...flags.map((flag) => {
      const isOff = flag.kind === 'boolean' && flag.defaultValue === true
      const values = flag.choices === undefined ? '' : ` -x -a ${quoted(flag.choices.join(' '))}`
      const takes = flag.kind === 'boolean' ? '' : values || ' -r'
      const long = isOff ? `no-${flag.name}` : flag.name
      const condition = quoted(`__fish_seen_subcommand_from ${name}`)
      return `complete -c clara -n ${condition} -l ${long}${takes} -d ${quoted(firstSentence(flag.description))}`
    }),
  ])
  return `${lines.join('\n')}
complete -c clara -l json -d 'Print the result as one JSON object'
complete -c clara -l help -d 'Show help'
`
}
