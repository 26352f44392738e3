/** A process of its own, so that its memory is its own: loads a model, uses it where its argument says so, and prints figures. */
import { answerParent } from './child.ts'
import { loadAndUse } from './large/large.ts'

await answerParent(loadAndUse)
