/** A process of its own, so that its memory is its own: loads a model, uses it where its argument says so, and prints figures. */
import { loadAndUse } from './large/large.ts'

process.stdout.write(`${JSON.stringify(await loadAndUse(JSON.parse(process.argv[2] ?? '')))}\n`)
