/** A process of its own, so that its memory is its own: measures one kind of weights and prints its figures. */
import { measureKind } from './weights/kind.ts'

process.stdout.write(`${JSON.stringify(await measureKind(JSON.parse(process.argv[2] ?? '')))}\n`)
