import { programHelp, verbHelp } from './help.ts'
import { textStyle } from './terminal.ts'
import type { VerbTable } from './verb.ts'

/** The Markdown of `docs/cli.md`: the help of the program and of every verb, as a terminal of 80 columns without colours shows it. */
export async function cliReference(verbs: VerbTable): Promise<string> {
  const style = textStyle({ write: () => undefined }, {})
  const sections = [
    '# The `clara` command line',
    'Written by `npx tsx scripts/write-cli-reference.ts` from the table of verbs; do not edit by hand.',
    fenced(programHelp(verbs, style)),
  ]
  for (const [name, { load }] of Object.entries(verbs)) {
    sections.push(`## clara ${name}`, fenced(verbHelp(name, await load(), style)))
  }
  return `${sections.join('\n\n')}\n`
}

function fenced(text: string): string {
  return `\`\`\`text\n${text}\n\`\`\``
}
