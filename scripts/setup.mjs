/**
 * Makes a clone ready to use, with Node's built-ins alone because it runs before anything is installed:
 * `node scripts/setup.mjs` installs the packages when they are missing or out of date; `--build` also compiles src/ to dist/.
 * Everything it prints goes to standard error, so that `npm run --silent demo -- --json` stays one JSON object.
 */
import { spawn } from 'node:child_process'
import { createHash, randomUUID } from 'node:crypto'
import * as fs from 'node:fs'
import { hostname } from 'node:os'
import * as path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const oldestNode = [20, 19]
const heartbeatMs = 2_000
const abandonedAfterMs = 30_000

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)))
/** @param {...string} parts */
const inRoot = (...parts) => path.join(root, ...parts)

/** A problem that the person at the keyboard can mend: printed without a stack trace. */
class SetupError extends Error {}

/** @param {string} text */
const say = (text) => process.stderr.write(`setup: ${text}\n`)

/** @param {string} file @returns {number} modification time in milliseconds; 0 when there is no such file */
const modified = (file) => fs.statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  const [oldestMajor = 0, oldestMinor = 0] = oldestNode
  if (major > oldestMajor || (major === oldestMajor && minor >= oldestMinor)) return
  throw new SetupError(
    `Node ${process.versions.node} is too old: this project needs Node ${oldestNode.join('.')} or newer. Install one from https://nodejs.org and run the command again.`,
  )
}

// ---- Is there anything to do? ----------------------------------------------------------------------------------------

/** npm writes node_modules/.package-lock.json last, so its presence also says that the installation was not cut off. */
const packagesAreCurrent = () =>
  modified(inRoot('node_modules/.package-lock.json')) >= modified(inRoot('package-lock.json'))

/** @param {string} directory @returns {string[]} */
function filesBelow(directory) {
  return fs
    .readdirSync(directory, { withFileTypes: true })
    .flatMap((entry) => {
      const full = path.join(directory, entry.name)
      return entry.isDirectory() ? filesBelow(full) : [full]
    })
    .sort()
}

/** A digest of names, sizes and times of everything the build reads; also notices files that were removed. */
function sourceStamp() {
  const hash = createHash('sha256')
  for (const file of [...filesBelow(inRoot('src')), inRoot('tsconfig.json'), inRoot('tsconfig.build.json')]) {
    const { size, mtimeMs } = fs.statSync(file)
    hash.update(`${path.relative(root, file)}\0${size}\0${mtimeMs}\n`)
  }
  return hash.digest('hex')
}

const stampFile = inRoot('dist', '.sources')
/** @param {string} stamp */
const buildIsCurrent = (stamp) => fs.existsSync(stampFile) && fs.readFileSync(stampFile, 'utf8') === stamp

// ---- One at a time ---------------------------------------------------------------------------------------------------

const lockFile = inRoot('.cache', 'setup.lock')

/**
 * A lock file holds the machine, a random name, and the process ids of the owner and of the programs it started: a killed setup may
 * leave npm running, and a second npm beside it would spoil the installation.
 * @param {string} text
 * @returns {boolean} whether all of these are known to have ended
 */
function ownersEnded(text) {
  const [host, , ...pids] = text.trim().split('\n')
  return host === hostname() && pids.length > 0 && !pids.some((pid) => isAlive(Number(pid)))
}

/** @param {number} pid */
function isAlive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code !== 'ESRCH'
  }
}

/** Removes a lock whose owner ended or stopped refreshing it. Two processes may both try: the rename lets one win. */
function removeAbandonedLock() {
  let text = ''
  try {
    text = fs.readFileSync(lockFile, 'utf8')
  } catch {
    return
  }
  const silentFor = Date.now() - modified(lockFile)
  if (!ownersEnded(text) && silentFor < abandonedAfterMs) return
  const aside = `${lockFile}.${randomUUID()}.tmp`
  try {
    fs.renameSync(lockFile, aside)
    // A faster process may have taken the lock between our reading and our renaming: give it back.
    if (fs.readFileSync(aside, 'utf8') !== text) fs.linkSync(aside, lockFile)
  } catch {
    // Somebody else moved it first; the next round looks again.
  }
  fs.rmSync(aside, { force: true })
}

/**
 * Runs `work` while holding the lock of this clone. A second process waits, then finds its work done.
 * @param {() => Promise<void>} work
 */
async function alone(work) {
  fs.mkdirSync(path.dirname(lockFile), { recursive: true })
  const mine = `${hostname()}\n${randomUUID()}\n`
  for (let told = false; ; ) {
    try {
      fs.writeFileSync(lockFile, `${mine}${process.pid}\n`, { flag: 'wx' })
      break
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'EEXIST') throw error
    }
    removeAbandonedLock()
    if (!told) say('another run is setting this clone up; waiting for it')
    told = true
    await sleep(200)
  }
  const heartbeat = setInterval(() => {
    const now = new Date()
    fs.utimes(lockFile, now, now, () => undefined)
  }, heartbeatMs)
  const release = () => {
    clearInterval(heartbeat)
    if (fs.existsSync(lockFile) && fs.readFileSync(lockFile, 'utf8').startsWith(mine))
      fs.rmSync(lockFile, { force: true })
  }
  process.once('exit', release)
  try {
    await work()
  } finally {
    process.removeListener('exit', release)
    release()
  }
}

// ---- The work --------------------------------------------------------------------------------------------------------

const leave = () => process.exit(130)
/**
 * The program now running, and whether a signal asked to stop: its end is awaited, since npm cut loose would go on writing.
 * @type {{ stop: () => void, interrupted: boolean }}
 */
const running = { stop: leave, interrupted: false }

/**
 * @param {string} command
 * @param {string[]} args
 * @returns {Promise<{ code: number, output: string }>} `output` is also shown as it comes
 */
function show(command, args) {
  return new Promise((resolve, reject) => {
    const shell = process.platform === 'win32' && command === 'npm'
    // The environment variable is for the npm versions that no longer pass the .npmrc line on to the package.
    const env = { ...process.env, ONNXRUNTIME_NODE_INSTALL: 'skip' }
    const child = spawn(command, args, { cwd: root, shell, env, stdio: ['ignore', 'pipe', 'pipe'] })
    if (child.pid !== undefined) fs.appendFileSync(lockFile, `${child.pid}\n`)
    running.stop = () => void child.kill()
    let output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8')
      stream.on('data', (text) => {
        output += text
        process.stderr.write(text)
      })
    }
    child.on('error', reject)
    child.on('close', (code) => {
      running.stop = leave
      if (running.interrupted) reject(new SetupError('stopped; run the command again to finish'))
      else resolve({ code: code ?? 1, output })
    })
  })
}

async function install() {
  say('installing packages (npm ci); this happens once')
  // Spelled out so that a --silent or --omit of the outer npm neither hides an error nor leaves a package out.
  const args = [
    'ci',
    '--include=dev',
    '--include=optional',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
    '--progress=false',
  ]
  const outerNpm = process.env.npm_execpath ?? ''
  const { code, output } = outerNpm.endsWith('npm-cli.js')
    ? await show(process.execPath, [outerNpm, ...args])
    : await show('npm', args)
  if (code === 0) return
  if (/ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ERR_SOCKET_TIMEOUT|ENOTCACHED/.test(output)) {
    throw new SetupError(
      'the package registry cannot be reached, so the packages are not installed. Check the network and `npm config get registry` (and `proxy`, `https-proxy`), then run the command again.',
    )
  }
  throw new SetupError(
    `npm ci ended with exit code ${code}; its message is above. Run the command again once that is mended.`,
  )
}

/** Compiles beside dist/ and swaps the folders, so that nobody ever loads a half-written build. @param {string} stamp */
async function build(stamp) {
  say('compiling src/ to dist/')
  const fresh = inRoot(`dist.new-${process.pid}`)
  const previous = inRoot(`dist.old-${process.pid}`)
  try {
    const compiler = inRoot('node_modules/typescript/bin/tsc')
    const { code } = await show(process.execPath, [compiler, '-p', inRoot('tsconfig.build.json'), '--outDir', fresh])
    if (code !== 0) throw new SetupError('src/ does not compile; the messages are above. dist/ is unchanged.')
    // What is neither TypeScript nor JavaScript (pages, styles, data) goes along as it is.
    for (const file of filesBelow(inRoot('src')).filter((name) => !/\.[cm]?[jt]sx?$/.test(name))) {
      const target = path.join(fresh, path.relative(inRoot('src'), file))
      fs.mkdirSync(path.dirname(target), { recursive: true })
      fs.copyFileSync(file, target)
    }
    const binary = path.join(fresh, 'cli', 'main.js')
    if (fs.existsSync(binary)) fs.chmodSync(binary, 0o755)
    fs.writeFileSync(path.join(fresh, '.sources'), stamp)
    if (fs.existsSync(inRoot('dist'))) fs.renameSync(inRoot('dist'), previous)
    fs.renameSync(fresh, inRoot('dist'))
  } finally {
    fs.rmSync(fresh, { recursive: true, force: true })
    fs.rmSync(previous, { recursive: true, force: true })
  }
}

async function main() {
  checkNode()
  const wantBuild = process.argv.includes('--build')
  if (packagesAreCurrent() && (!wantBuild || buildIsCurrent(sourceStamp()))) return
  await alone(async () => {
    if (!packagesAreCurrent()) await install()
    if (!wantBuild) return
    const stamp = sourceStamp()
    if (!buildIsCurrent(stamp)) await build(stamp)
  })
}

for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM'])) {
  process.on(signal, () => {
    running.interrupted = true
    running.stop()
  })
}
try {
  await main()
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  say(error.message)
  process.exitCode = 1
}
