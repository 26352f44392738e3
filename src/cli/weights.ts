import { z } from 'zod'
import { weightKinds } from '../model/weight-kinds.ts'
import type { VerbContext } from './verb.ts'

/** The flags of every verb that runs a model, on how its weights are held. */
export const weightFlags = {
  weights: z.enum(weightKinds).default('int8').describe("How the model's weights are held"),
  lowMemory: z
    .boolean()
    .default(false)
    .describe("Hold one layer's weights in memory at a time: slow, for models that do not fit otherwise"),
}

/** What `Clara.load` is told of them. Writing the weights to the cache takes a while, so it shows. */
export const weightOptions = (
  { weights, lowMemory }: z.infer<z.ZodObject<typeof weightFlags>>,
  context: VerbContext,
) => ({ weights, lowMemory, onNotice: (message: string) => context.status(message) })
