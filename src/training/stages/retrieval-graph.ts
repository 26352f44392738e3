import { gradients } from '../../autodiff/gradients.ts'
import { compressor, MEMORY_ROWS } from '../../clara/compressor.ts'
import { generator } from '../../clara/generator.ts'
import { declareBase } from '../../clara/network.ts'
import { flatSimilarity, maxSimilarity } from '../../clara/similarity.ts'
import { chosenMemory, differentiableTopK } from '../../clara/topk.ts'
import { addInput, addOutput, createGraph, type Graph, type Tensor } from '../../graph/graph.ts'
import { frozenLinear } from '../../model/frozen.ts'
import { add, exp, log, multiply, negate, scalar, scale, stopGradient, subtract } from '../../ops/elementwise.ts'
import { gather } from '../../ops/indexing.ts'
import { reshape } from '../../ops/layout.ts'
import { matmul } from '../../ops/matmul.ts'
import { reduceMax, reduceSum } from '../../ops/reduce.ts'
import { encodeGraph } from '../../ops/table.ts'
import type { Stage1Options, TrainingGraph } from './graph.ts'

/** What the query reasoner learns from: the answer that the chosen documents lead to, or which documents are relevant. */
export type RetrievalObjective = 'answer' | 'contrastive'

export interface RetrievalGraphOptions extends Stage1Options {
  readonly objective: RetrievalObjective
  /** Documents that the generator reads. */
  readonly topK: number
  /** τ of the choice and of the contrastive loss; the published value is 0.02. */
  readonly temperature: number
  /** Whether memory of questions passes a projection. Default: false. */
  readonly projected?: boolean
}

/** Added to the score of a document that is not in a question's pool. */
const OUTSIDE = -1e9

/**
 * Stages `stage2` and `stage2_pretrain_retrieval` (paper sections 3.3 and 3.4): the query reasoner, and the generator with the objective
 * `answer`, learn over the memory of a frozen compressor.
 *
 * All questions choose from the documents of the whole batch, of which a question's pool is a part. Beside those of the
 * compressor, which here reads questions, the graph has the inputs `queryRows` int64 [questions, query tokens] (rows of the
 * reasoner's memory), `queryWeights` float32 of that shape (similarity 'maxsim': 1 / tokens, 0 for padding), `documentMemory`
 * float32 [1, documents, tokens, hidden], `documentTokens` float32 [documents, tokens] (1, or 0 for padding), `inPool`
 * float32 [questions, documents] (1 or 0). Objective `answer`: those of the generator, whose prompts have `topK` slots of
 * `tokens` memory tokens each, and `earlier`. Objective `contrastive`: `relevant` float32 [questions, documents] and
 * `questionWeights` float32 [questions]. Outputs: `loss`, `scores` [questions, documents], and one gradient a parameter, or, without
 * gradients, `query` and with the objective `answer` `indices` [questions, topK], `nll`, `logits`.
 */
export function retrievalGraph(options: RetrievalGraphOptions, withGradients = true): TrainingGraph {
  const { config, objective, lora } = options
  const graph = createGraph(withGradients ? objective : `${objective}_evaluation`)
  const exact = declareBase(graph, config, options.vocabulary, options.positions)
  const base = options.int8 ? { ...exact, linear: frozenLinear(graph) } : exact
  const dropout =
    options.dropout && withGradients
      ? { dropout: { factors: addInput(graph, 'dropout', 'float32', ['dropoutLength']) } }
      : {}
  const reasoner = compressor(base, {
    ...options.compressor,
    role: 'query_reasoner_adapter',
    lora,
    projected: options.projected ?? false,
    ...dropout,
  })
  // flat similarity compares memories of one length
  const asked = options.compressor.config.similarity === 'flat' ? 'poolTokens' : 'queryTokens'
  const query = gather(reasoner.memory, addInput(graph, 'queryRows', 'int64', ['documents', asked]))
  const memory = addInput(graph, 'documentMemory', 'float32', [1, 'pool', 'poolTokens', config.hidden_size])
  const present = addInput(graph, 'documentTokens', 'float32', ['pool', 'poolTokens'])
  const scores = poolScores(graph, options, query, memory, present)
  // what a compressor learned stays as it is from here on
  const frozen = [...reasoner.parameters.keys()].filter((name) => !name.includes('.query_reasoner_adapter.'))
  const learning = new Map([...reasoner.parameters].filter(([name]) => !frozen.includes(name)))

  let loss: Tensor
  const outputs: Record<string, Tensor> = { query, scores }
  if (objective === 'contrastive') {
    loss = contrastiveLoss(scores, options.temperature)
  } else {
    const { weights, indices } = differentiableTopK(scores, options.topK, options.temperature)
    const chosen = reshape(chosenMemory(weights, memory), [-1, config.hidden_size])
    const rows = reasoner.parameters.get(MEMORY_ROWS)
    const answer = generator(base, chosen, {
      lora,
      memoryRows: rows && { rows, firstId: options.firstMemoryToken },
      memoryPresence: reshape(matmul(stopGradient(weights), present), [-1]),
      ...dropout,
    })
    loss = answer.loss
    for (const [name, parameter] of answer.parameters) learning.set(name, parameter)
    Object.assign(outputs, { indices, nll: answer.nll, logits: answer.logits })
  }
  addOutput(graph, 'loss', loss)
  if (withGradients) {
    addOutput(graph, 'scores', scores)
    const found = gradients(loss, [...learning.values()])
    for (const [index, name] of [...learning.keys()].entries()) addOutput(graph, `grad:${name}`, found[index] as Tensor)
  } else {
    for (const [name, tensor] of Object.entries(outputs)) addOutput(graph, name, tensor)
  }
  return { graph, model: encodeGraph(graph), parameters: [...learning.keys()], frozen }
}

/** Similarity of every question with every document; far below all others where the document is not in its pool. */
function poolScores(
  graph: Graph,
  { compressor: { config } }: RetrievalGraphOptions,
  query: Tensor,
  memory: Tensor,
  present: Tensor,
): Tensor {
  const inPool = addInput(graph, 'inPool', 'float32', ['documents', 'pool'])
  const outside = scale(subtract(scalar(inPool, 1), inPool), OUTSIDE)
  if (config.similarity === 'flat') return add(flatSimilarity(query, memory), outside)
  // the mean over the query's tokens instead of their sum: the same order, and a τ that means the same for every question
  const weights = addInput(graph, 'queryWeights', 'float32', ['documents', 'queryTokens'])
  const masks = { query: weights, documents: reshape(present, [1, 'pool', 'poolTokens']) }
  return add(maxSimilarity(query, memory, masks), outside)
}

/**
 * Σ weight · -log(Σ_relevant e^(s/τ) / Σ_all e^(s/τ)). A question without a relevant document has the weight 0; its term is
 * finite whatever it is.
 */
function contrastiveLoss(scores: Tensor, temperature: number): Tensor {
  const { graph } = scores
  const relevant = addInput(graph, 'relevant', 'float32', ['documents', 'pool'])
  const weights = addInput(graph, 'questionWeights', 'float32', ['documents'])
  const scaled = scale(scores, 1 / temperature)
  const irrelevant = scale(subtract(scalar(relevant, 1), relevant), OUTSIDE / temperature)
  const odds = subtract(logSumExp(add(scaled, irrelevant)), logSumExp(scaled))
  return negate(reduceSum(multiply(odds, weights)))
}

/** log Σ e^x over the last axis, [rows, columns] -> [rows]; the largest is taken out first, so that none overflows or vanishes. */
function logSumExp(x: Tensor): Tensor {
  const largest = stopGradient(reduceMax(x, [1], true))
  const sums = reduceSum(exp(subtract(x, largest)), [1])
  return add(log(sums), reshape(largest, [-1]))
}
