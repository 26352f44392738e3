/**
 * Everything that has to hold, one check after the other, none skipped because an earlier one failed: types, lint and format,
 * unused code, tests. The last line is `N passed, N failed`, a tool counting as one and every test as one.
 * `--full` adds the slow tests; other arguments go to vitest (`npm test -- test/graph` runs one room's tests).
 */
import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)))
const require = createRequire(import.meta.url)

/**
 * @param {string} name package
 * @param {string} binary key of `bin` in its package.json
 * @returns {string} path of the program, found without a shell so that it works alike everywhere
 */
function program(name, binary) {
  const folder = path.join(root, 'node_modules', name)
  const { bin } = require(path.join(folder, 'package.json'))
  return path.join(folder, typeof bin === 'string' ? bin : bin[binary])
}

/** @param {string} title @param {string} file @param {string[]} args @returns {boolean} whether it succeeded */
function run(title, file, args) {
  process.stdout.write(`\n== ${title}\n`)
  const { status, error } = spawnSync(process.execPath, [file, ...args], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  if (error) process.stdout.write(`${error.message}\n`)
  process.stdout.write(status === 0 ? `${title}: passed\n` : `${title}: FAILED\n`)
  return status === 0
}

const args = process.argv.slice(2)
const full = args.includes('--full')
const vitestArgs = args.filter((argument) => argument !== '--full')

let passed = 0
let failed = 0
/** @type {string[]} */
const failures = []
/** @param {string} title @param {boolean} success */
const count = (title, success) => {
  if (success) passed += 1
  else {
    failed += 1
    failures.push(title)
  }
}

count('types', run('types', program('typescript', 'tsc'), ['--noEmit', '-p', '.']))
count('lint', run('lint', program('@biomejs/biome', 'biome'), ['check', '--error-on-warnings']))
count('unused code', run('unused code', program('knip', 'knip'), []))

const scratch = fs.mkdtempSync(path.join(tmpdir(), 'clara-check-'))
try {
  const report = path.join(scratch, 'report.json')
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
  const mode = full ? ['--mode', 'full'] : []
  const succeeded = run('tests', program('vitest', 'vitest'), ['run', ...mode, ...reporters, ...vitestArgs])
  const result = fs.existsSync(report) ? JSON.parse(fs.readFileSync(report, 'utf8')) : {}
  const testsPassed = result.numPassedTests ?? 0
  const testsFailed = result.numFailedTests ?? 0
  passed += testsPassed
  failed += testsFailed
  if (testsFailed > 0) failures.push(`${testsFailed} of ${testsPassed + testsFailed} tests`)
  // A file that does not load, a crashed process or a run without a single test fails without any failed test.
  else if (!succeeded || testsPassed === 0) count('the test run itself', false)
} finally {
  fs.rmSync(scratch, { recursive: true, force: true })
}

if (failures.length > 0) process.stdout.write(`\nFailed: ${failures.join(', ')}\n`)
process.stdout.write(`\n${passed} passed, ${failed} failed\n`)
process.exitCode = failed === 0 ? 0 : 1
