/** From a folder of files to an answer: `npx tsx examples/folder.ts ./docs "Who designed the opera house?"`. */
import { Clara, KnowledgeBase } from '../src/index.ts'

const [folder = 'docs', question = 'What is this about?'] = process.argv.slice(2)
await using clara = await Clara.load()
await using knowledge = await KnowledgeBase.open('clara-store', { clara })
const { compressed, unchanged } = await knowledge.sync([folder])
console.log(`${compressed} passages compressed, ${unchanged} there already`)
const { answer, sources } = await knowledge.ask(question, { topK: 3, expand: 1 })
console.log(answer)
for (const { documentId, start, score } of sources) console.log(`${score.toFixed(3)} ${documentId}, character ${start}`)
