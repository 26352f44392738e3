import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix, relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { importsOf } from './house/imports.ts'

/**
 * The house: each room (folder of src/) with the rooms it may import besides itself. Adding a room means adding a line.
 * The order tells the story from the tensor graph to the programs; every arrow points to an earlier line.
 */
const leaves = ['tokenizer', 'data', 'store', 'ingestion'] as const
const engine = ['graph', 'ops', 'autodiff', 'runtime'] as const
const model = [...engine, ...leaves, 'checkpoint', 'model', 'lora'] as const
const product = [...model, 'clara', 'training', 'synthesis', 'knowledge'] as const
const allowed: Readonly<Record<string, readonly string[]>> = {
  tokenizer: [],
  data: [],
  store: [],
  ingestion: [],
  hub: [],
  graph: [],
  ops: ['graph'],
  autodiff: ['graph', 'ops'],
  runtime: ['graph', 'ops', 'autodiff'],
  checkpoint: [...engine, ...leaves],
  model: [...engine, ...leaves, 'checkpoint'],
  lora: [...engine, ...leaves, 'checkpoint', 'model'],
  clara: [...model, 'hub'],
  training: [...model, 'clara'],
  synthesis: [...model, 'clara'],
  knowledge: [...model, 'clara'],
  evaluation: product,
  lens: product,
  server: [...product, 'evaluation', 'lens'],
  cli: [...product, 'evaluation', 'lens', 'server', 'hub'],
  web: [],
}
/** Rooms of which a room may import types, and nothing that runs. */
const allowedTypes: Readonly<Record<string, readonly string[]>> = { web: ['server'] }
/** What anyone may import. These files import nothing of another room themselves. */
const common = ['errors.ts', 'graph/dtype.ts']
/** Files directly in src/ that gather what the rooms offer. */
const doors = ['index.ts']
/** Packages that one room alone may import, by prefix. */
const reserved: Readonly<Record<string, string>> = { 'onnxruntime-': 'runtime' }

/** @param file path below src/, with forward slashes. @returns one line per breach: file, line and the forbidden arrow. */
function breaches(file: string, source: string): string[] {
  const room = file.includes('/') ? file.slice(0, file.indexOf('/')) : ''
  if (room === '' && !doors.includes(file) && !common.includes(file)) {
    return [`src/${file}: a file outside every room; move it into one`]
  }
  if (room !== '' && !(room in allowed))
    return [`src/${file}: unknown room "${room}"; add it to the table in test/house.test.ts`]

  return importsOf(file, source).flatMap(({ specifier, line, typeOnly }) => {
    const breach = (why: string) => [`src/${file}:${line}: ${why}`]
    if (specifier === undefined) return breach('a computed import, which no table can check; name the module')
    if (!/^[./]/.test(specifier)) {
      if (/^clara-ts(\/|$)/.test(specifier)) return breach(`"${specifier}" imports the package itself`)
      const owner = Object.entries(reserved).find(([prefix]) => specifier.startsWith(prefix))?.[1]
      return owner === undefined || owner === room
        ? []
        : breach(`${room || file} -> ${specifier}; only ${owner} imports it`)
    }
    const target = posix.normalize(posix.join(posix.dirname(file), specifier))
    if (specifier.startsWith('/') || target.startsWith('..')) return breach(`"${specifier}" leaves src/`)
    if (common.includes(target)) return []
    if (common.includes(file))
      return breach(`${file} is open to every room, so it may import none, but imports ${target}`)
    if (room === '') return []
    const targetRoom = target.includes('/') ? target.slice(0, target.indexOf('/')) : target
    if (targetRoom === room || allowed[room]?.includes(targetRoom)) return []
    if (typeOnly && allowedTypes[room]?.includes(targetRoom)) return []
    return breach(`${room} -> ${targetRoom} (imports "${specifier}")`)
  })
}

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const src = join(root, 'src')
const files = readdirSync(src, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && /\.[cm]?[jt]sx?$/.test(entry.name))
  .map((entry) => relative(src, join(entry.parentPath, entry.name)).split(sep).join('/'))

describe('the house', () => {
  test('no import goes against the arrows', () => {
    expect(files.length).toBeGreaterThan(0)
    expect(files.flatMap((file) => breaches(file, readFileSync(join(src, file), 'utf8')))).toEqual([])
  })

  test('every arrow of the table points to an earlier line, so there is no circle', () => {
    const order = Object.keys(allowed)
    const later = order.flatMap((room, line) =>
      [...(allowed[room] ?? []), ...(allowedTypes[room] ?? [])]
        .filter((target) => !order.slice(0, line).includes(target))
        .map((target) => `${room} -> ${target}`),
    )
    expect(later).toEqual([])
  })
})

interface LockedPackage {
  readonly version?: string
  readonly integrity?: string
  readonly resolved?: string
  readonly optional?: boolean
  readonly os?: readonly string[]
  readonly optionalDependencies?: Readonly<Record<string, string>>
}

test('package-lock.json installs on every platform, from any registry', () => {
  const lock: { packages: Record<string, LockedPackage> } = JSON.parse(
    readFileSync(join(root, 'package-lock.json'), 'utf8'),
  )
  const packages = Object.entries(lock.packages).filter(([path]) => path !== '')
  expect(packages.length).toBeGreaterThan(0)
  // a build for another platform may have been written in by hand, from a registry that lacks it: its exact version is all we know
  const incomplete = packages.filter(
    ([, { version, integrity, optional, os }]) =>
      version === undefined || (integrity === undefined && !(optional === true && os !== undefined)),
  )
  expect(incomplete.map(([path]) => path)).toEqual([])
  expect(packages.filter(([, { resolved }]) => resolved !== undefined).map(([path]) => path)).toEqual([])
  // A registry that lacks another platform's build makes npm leave it out silently, and `npm ci` then refuses the file.
  const absent = packages.flatMap(([path, { optionalDependencies = {} }]) =>
    Object.keys(optionalDependencies).filter(
      (name) => !(`node_modules/${name}` in lock.packages) && !(`${path}/node_modules/${name}` in lock.packages),
    ),
  )
  expect(absent).toEqual([])
})

describe('the check itself', () => {
  // Each way to name a module, with a specifier to fill in.
  const syntaxes: readonly ((specifier: string) => string)[] = [
    (s) => `import { a } from '${s}'`,
    (s) => `import a, * as b from "${s}"`,
    (s) => `import {\n  a,\n} from '${s}'`,
    (s) => `import '${s}'`,
    (s) => `import type { A } from '${s}'`,
    (s) => `import { type A } from '${s}'`,
    (s) => `export { a } from '${s}'`,
    (s) => `export type { A } from '${s}'`,
    (s) => `export * from '${s}'`,
    (s) => `export * as a from '${s}'`,
    (s) => `const a = await import('${s}')`,
    (s) => `const a = await import(\`${s}\`)`,
    (s) => `const a = () => /* why */ import(\n'${s}')`,
    (s) => `type A = import('${s}').A`,
    (s) => `type A = typeof import('${s}')`,
    (s) => `import a = require('${s}')`,
    (s) => `const a = require('${s}')`,
    (s) => `const a = require.resolve('${s}')`,
    (s) => `const a = import.meta.resolve('${s}')`,
    (s) => `const a = new Worker(new URL('${s}', import.meta.url))`,
  ]

  test.each(syntaxes.map((write) => [write('../clara/pipeline.ts'), write]))('sees %s', (_, write) => {
    expect(breaches('graph/tensor.ts', `\n${write('../clara/pipeline.ts')}\n`)).toEqual([
      expect.stringMatching(/^src\/graph\/tensor\.ts:[2-4]: graph -> clara /),
    ])
    expect(breaches('clara/pipeline.ts', write('../graph/tensor.ts'))).toEqual([])
    expect(breaches('graph/tensor.ts', write('./shape.ts'))).toEqual([])
  })

  test.each([
    ['model/llama.ts', "import * as ort from 'onnxruntime-node'", 'model -> onnxruntime-node; only runtime'],
    ['index.ts', "export type { Tensor } from 'onnxruntime-common'", 'index.ts -> onnxruntime-common; only runtime'],
    ['model/llama.ts', 'await import(name)', 'computed import'],
    ['model/llama.ts', 'await import(`./$' + '{name}.ts`)', 'computed import'],
    ['model/llama.ts', "import card from '../../models/card.json'", 'leaves src/'],
    ['model/llama.ts', "import { Clara } from 'clara-ts'", 'imports the package itself'],
    ['model/llama.ts', "import { Clara } from '../index.ts'", 'model -> index.ts'],
    ['runtime/worker.mjs', "/** @type {import('../model/llama.ts').Config} */ let a", 'runtime -> model'],
    ['runtime/worker.mjs', "/** @import { Config } from '../model/llama.ts' */", 'runtime -> model'],
    ['store/memory.ts', "import { a } from '../data/reader.ts'", 'store -> data'],
    ['knowledge/base.ts', "import { a } from '../training/trainer.ts'", 'knowledge -> training'],
    ['web/app.ts', "import { app } from '../server/app.ts'", 'web -> server'],
    ['web/app.ts', "import { app, type App } from '../server/app.ts'", 'web -> server'],
    ['utils/misc.ts', '', 'unknown room "utils"'],
    ['misc.ts', '', 'outside every room'],
    ['errors.ts', "import { a } from './graph/graph.ts'", 'may import none'],
    ['graph/dtype.ts', "import { a } from './graph.ts'", 'may import none'],
  ])('refuses in %s: %s', (file, source, why) => {
    expect(breaches(file, source)).toEqual([expect.stringContaining(why)])
  })

  test.each([
    ['runtime/session.ts', "import * as ort from 'onnxruntime-node'"],
    ['web/app.ts', "import type { App } from '../server/app.ts'"],
    ['store/memory.ts', "import type { DType } from '../graph/dtype.ts'\nimport { ClaraError } from '../errors.ts'"],
    ['index.ts', "export { Clara } from './clara/clara.ts'"],
    ['graph/shape.ts', "// import { a } from '../clara/a.ts'\nconst text = \"import x from '../clara/a.ts'\""],
    ['clara/clara.ts', "const folder = new URL('../../models/', import.meta.url)"],
  ])('accepts in %s: %s', (file, source) => {
    expect(breaches(file, source)).toEqual([])
  })
})
