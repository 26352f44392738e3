import { basename } from 'node:path'
import { decodeText } from '../decode.ts'
import type { Heading } from '../document.ts'
import type { Reader } from './reader.ts'

/** Languages by the extension of their files. */
const languages: Readonly<Record<string, readonly string[]>> = {
  c: ['c', 'h'],
  'c++': ['cc', 'cpp', 'cxx', 'hh', 'hpp', 'hxx', 'ipp'],
  'c#': ['cs'],
  clojure: ['clj', 'cljs', 'cljc', 'edn'],
  css: ['css', 'scss', 'sass', 'less'],
  dart: ['dart'],
  elixir: ['ex', 'exs'],
  erlang: ['erl', 'hrl'],
  'f#': ['fs', 'fsx', 'fsi'],
  go: ['go'],
  graphql: ['graphql', 'gql'],
  groovy: ['groovy', 'gradle'],
  haskell: ['hs', 'lhs'],
  java: ['java'],
  javascript: ['js', 'mjs', 'cjs', 'jsx'],
  json: ['json', 'jsonc', 'json5', 'ipynb', 'geojson'],
  julia: ['jl'],
  kotlin: ['kt', 'kts'],
  lua: ['lua'],
  nix: ['nix'],
  'objective-c': ['m', 'mm'],
  ocaml: ['ml', 'mli'],
  perl: ['pl', 'pm'],
  php: ['php'],
  powershell: ['ps1', 'psm1'],
  protobuf: ['proto'],
  python: ['py', 'pyi', 'pyw'],
  r: ['r'],
  ruby: ['rb', 'rake', 'gemspec'],
  rust: ['rs'],
  scala: ['scala', 'sc'],
  shell: ['sh', 'bash', 'zsh', 'fish'],
  sql: ['sql'],
  svelte: ['svelte'],
  swift: ['swift'],
  terraform: ['tf', 'hcl'],
  toml: ['toml', 'ini', 'cfg', 'conf', 'properties', 'env'],
  typescript: ['ts', 'mts', 'cts', 'tsx'],
  vue: ['vue'],
  xml: ['xml', 'xsd', 'xsl', 'plist'],
  yaml: ['yaml', 'yml'],
  zig: ['zig'],
}
const languageOf = new Map(
  Object.entries(languages).flatMap(([name, all]) => all.map((extension) => [extension, name])),
)

/** Source code, as text whose units are lines; definitions that begin a line serve as headings. */
export const codeReader: Reader = {
  name: 'code',
  extensions: [...languageOf.keys()],
  mediaTypes: [
    'application/json',
    'application/xml',
    'text/xml',
    'text/css',
    'text/javascript',
    'application/javascript',
  ],
  async *read(input, { limits }) {
    const text = decodeText(await input.bytes(limits.bytes), input.name, input.charset)
    const language = languageOf.get(input.path.slice(input.path.lastIndexOf('.') + 1).toLowerCase())
    yield {
      title: basename(input.path),
      text,
      lines: true,
      headings: definitions(text),
      metadata: language === undefined ? {} : { language },
    }
  },
}

const MODIFIERS =
  '(?:(?:export|default|declare|public|private|protected|internal|static|final|abstract|sealed|async|open|override|inline|extern|unsafe|const|local|partial|data|case|implicit|pub(?:\\([a-z:]+\\))?)\\s+)*'
const KEYWORDS =
  'function\\*?|class|interface|type|enum|struct|union|trait|impl|module|namespace|object|record|protocol|extension|def|defp|defmodule|defn|defmacro|fn|func|fun|sub|proc|procedure|macro|create\\s+(?:or\\s+replace\\s+)?(?:table|view|function|procedure|index)'
const DEFINITION = new RegExp(
  `^([ \\t]{0,4})${MODIFIERS}(${KEYWORDS})(?:\\s*\\([^()\\n]{0,100}\\))?(?:<[^>\\n]{0,100}>)?\\s+([\\w$.:~<>?!*'-]{1,100})`,
  'iu',
)
/** What stands above a definition and belongs to it: comments, attributes, decorators. */
const ATTACHED = /^[ \t]*(?:\/\/|\/\*|\*|#|--|@|;;|\(\*|"""|''')/

/** Where functions, classes and the like begin, as headings: level 1 at the margin, 2 where indented by one step. */
function definitions(text: string): Heading[] {
  const headings: Heading[] = []
  /** Start of the comments right above the line. */
  let attached: number | undefined
  for (let start = 0; start < text.length; ) {
    const newline = text.indexOf('\n', start)
    const end = newline < 0 ? text.length : newline
    // a longer line is data, not a definition
    const line = text.slice(start, Math.min(end, start + 400))
    const found = DEFINITION.exec(line)
    if (found) {
      const [, indent = '', keyword = '', name = ''] = found
      const title = `${keyword.replace(/\s+/g, ' ')} ${name.replace(/<.*$|[:*]+$/, '')}`
      headings.push({ level: indent === '' ? 1 : 2, title, start: attached ?? start, end })
    }
    attached = !found && ATTACHED.test(line) ? (attached ?? start) : undefined
    start = end + 1
  }
  return headings
}
