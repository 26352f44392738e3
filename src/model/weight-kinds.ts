/** How the weights of linear layers are held. */
export const weightKinds = ['fp32', 'fp16', 'int8', 'int4'] as const
export type WeightKind = (typeof weightKinds)[number]
