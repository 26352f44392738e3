import { parseSync, Visitor, type VisitorObject } from 'oxc-parser'

/** One place where a file names another module. */
export interface ImportSite {
  /** What stands between the quotes; undefined when it is computed and cannot be read. */
  readonly specifier: string | undefined
  /** 1-based line. */
  readonly line: number
  /** Gone after compilation: `import type`, `export type`, an import type in a type position. */
  readonly typeOnly: boolean
}

/**
 * Every way in which TypeScript or JavaScript reaches for another module: import and re-export declarations, `import()`, import types,
 * `require` and `require.resolve`, `import x = require()`, `import.meta.resolve`, `new URL('…', import.meta.url)`, and import types in
 * the JSDoc comments of JavaScript files.
 */
export function importsOf(fileName: string, source: string): ImportSite[] {
  const { program, comments, errors } = parseSync(fileName, source)
  const broken = errors.find((error) => error.severity === 'Error')
  if (broken !== undefined) throw new Error(`${fileName} does not parse: ${broken.message}`)

  const sites: ImportSite[] = []
  const lineAt = (offset: number) => source.slice(0, offset).split('\n').length
  const add = (node: Node, typeOnly: boolean) =>
    sites.push({ specifier: literal(node), line: lineAt(node.start), typeOnly })

  const visitor: VisitorObject = {
    ImportDeclaration(node) {
      const named = node.specifiers
      const everyNameIsType =
        named.length > 0 && named.every((name) => name.type === 'ImportSpecifier' && name.importKind === 'type')
      add(node.source, node.importKind === 'type' || everyNameIsType)
    },
    ExportNamedDeclaration(node) {
      if (node.source === null) return
      const everyNameIsType = node.specifiers.length > 0 && node.specifiers.every((name) => name.exportKind === 'type')
      add(node.source, node.exportKind === 'type' || everyNameIsType)
    },
    ExportAllDeclaration: (node) => void add(node.source, node.exportKind === 'type'),
    ImportExpression: (node) => void add(node.source, false),
    TSImportType: (node) => void add(node.source, true),
    TSExternalModuleReference: (node) => void add(node.expression, false),
    CallExpression(node) {
      const callee = source.slice(node.callee.start, node.callee.end)
      const target = node.arguments[0]
      const loads = ['require', 'require.resolve', 'import.meta.resolve'].includes(callee)
      if (loads && target !== undefined) add(target, false)
    },
    NewExpression(node) {
      const [target, base] = node.arguments
      if (target === undefined || base === undefined) return
      if (source.slice(base.start, base.end) !== 'import.meta.url') return
      const specifier = literal(target)
      // A URL may name a folder or a data file; only source files are imports.
      if (specifier !== undefined && /\.[cm]?[jt]s$/.test(specifier)) add(target, false)
    },
  }
  new Visitor(visitor).visit(program)

  if (/\.[cm]?js$/.test(fileName)) {
    for (const comment of comments) {
      for (const match of comment.value.matchAll(
        /\bimport\(\s*(['"])(.+?)\1\s*\)|@import\b.*?\bfrom\s+(['"])(.+?)\3/g,
      )) {
        sites.push({ specifier: match[2] ?? match[4], line: lineAt(comment.start + 2 + match.index), typeOnly: true })
      }
    }
  }
  return sites.sort((a, b) => a.line - b.line)
}

interface Node {
  readonly type: string
  readonly start: number
}

/** The text of a string literal or of a template without placeholders. */
function literal(node: Node): string | undefined {
  if ('value' in node && typeof node.value === 'string') return node.value
  if (!('quasis' in node && Array.isArray(node.quasis)) || node.quasis.length !== 1) return undefined
  const [only] = node.quasis
  return typeof only?.value?.cooked === 'string' ? only.value.cooked : undefined
}
