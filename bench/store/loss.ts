import { encodeText } from '../../src/clara/document.ts'
import type { Memory } from '../../src/clara/encoder.ts'
import { loadModel } from '../../src/clara/model.ts'
import { openRoles } from '../../src/clara/roles.ts'
import { openRuntime } from '../../src/runtime/runtime.ts'
import { dequantiseMemory, quantiseMemory } from '../../src/store/quantise.ts'
import { meanLoss, readQuestions } from '../weights/kind.ts'

export interface LossOptions {
  readonly model: string
  /** JSON lines of passages with questions. */
  readonly passages: string
  readonly documents: number
  readonly threads: number
}

/** Change of the mean loss of answers, in nats a token, when they are read from int8 memory instead of float32. */
export async function measureLossChange(options: LossOptions): Promise<number> {
  const model = await loadModel(options.model)
  await using runtime = await openRuntime({ threads: options.threads })
  const roles = await openRoles(model, runtime, { kind: 'fp32', lowMemory: false })
  const questions = await readQuestions(options)
  const memories = await roles.encoder.encode(
    questions.map(({ text }) => encodeText(model, text, 'A passage').document),
  )
  const exact = await meanLoss(model, roles, questions, memories)
  return (await meanLoss(model, roles, questions, memories.map(rounded))) - exact
}

function rounded({ tokens, shape }: Memory): Memory {
  const [n, width] = shape
  return { tokens: dequantiseMemory(quantiseMemory({ dtype: 'float32', tokens, n, width })).tokens, shape }
}
