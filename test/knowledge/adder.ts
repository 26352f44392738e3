import { setTimeout as sleep } from 'node:timers/promises'
import { KnowledgeBase } from '../../src/knowledge/knowledge-base.ts'
import { fakeModel } from './fake-model.ts'

/* A process that adds documents, and says when it begins and then how many of them are safe; a test kills it. Arguments: the store's folder, the number of documents. */

const [folder = '', count = '0'] = process.argv.slice(2)
const clara = fakeModel()
const { compressDocuments } = clara
const slow = Object.assign(clara, {
  async compressDocuments(texts: readonly string[]) {
    await sleep(15)
    return compressDocuments(texts)
  },
})
console.log('ready')
await using knowledge = await KnowledgeBase.open(folder, { clara: slow })
for (let first = 0; first < Number(count); first += 20) {
  const documents = Array.from({ length: 20 }, (_, index) => ({
    id: `d${first + index}`,
    text: `Document ${first + index} has several sentences. `.repeat(8),
  }))
  await knowledge.add(documents)
  console.log(first + 20)
}
