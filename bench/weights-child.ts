/** A process of its own, so that its memory is its own: measures one kind of weights and prints its figures. */
import { answerParent } from './child.ts'
import { measureKind } from './weights/kind.ts'

await answerParent(measureKind)
