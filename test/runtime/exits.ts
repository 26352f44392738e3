/** A program that ends while its runtime is at work, in the way that its argument names. */
import { openRuntime } from '../../src/runtime/runtime.ts'
import { long, ones } from './graphs.ts'

const mode = process.argv[2]
const runtime = await openRuntime({ threads: 1 })
const session = await runtime.open(long(60))

function leave(): void {
  process.stdout.write('leaving\n')
  process.exit(0)
}

if (mode === 'idle') process.stdout.write('leaving\n')
else {
  void session.run({ x: ones() }).then(() => process.stdout.write('too late\n'))
  if (mode === 'queued') {
    for (let i = 0; i < 5; i++) void session.run({ x: ones() })
    void runtime.allocate('float32', [1])
  }
  if (mode === 'closing') void runtime.close()
  if (mode === 'at-once') leave()
  else setTimeout(leave, 30)
}
