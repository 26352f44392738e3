/** A process of its own, so that its memory is its own: adds passages to a store and prints the most it ever held. */
import { answerParent } from './child.ts'
import { addAndTell } from './ingest/peak.ts'

await answerParent(addAndTell)
