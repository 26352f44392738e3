/** A process of its own, so that its memory is its own: adds passages to a store and prints the most it ever held. */
import { addAndTell } from './ingest/peak.ts'

process.stdout.write(`${JSON.stringify(await addAndTell(JSON.parse(process.argv[2] ?? '')))}\n`)
