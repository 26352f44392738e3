/*
 * A process that works on a store until it has done its part or is killed. Arguments: what to do, the store's folder, a number.
 *   add N     adds documents 0 to N-1, three rows each, as a knowledge base would: what is there completely is passed over. Says `ready` before it
 *             opens the store, and every document's number once it is acknowledged.
 *   fill N    adds rows of a megabyte until one is refused, at most N; says how many were acknowledged, and the error.
 *   write 0   opens the store, counts, and adds one row; says the count, and the error if there is one.
 */
import { randomFillSync } from 'node:crypto'
import { writeSync } from 'node:fs'
import { openLanceStore } from '../../src/store/lancedb/driver.ts'
import type { StoreRow } from '../../src/store/store.ts'

const [, , task, folder = '', number = '0'] = process.argv
const say = (line: string) => writeSync(1, `${line}\n`)

const description = { fingerprint: 'model-a', memoryWidth: 64, vectorWidth: 8 }
const { fingerprint } = description

function rowOf(document: number, chunk: number, tokens = 32): StoreRow {
  const id = `d${document}#${chunk}`
  return {
    id,
    documentId: `d${document}`,
    chunk,
    text: `text of ${id}`,
    metadata: { document },
    contentHash: `hash of ${id}`,
    memory: {
      dtype: 'int8',
      tokens: new Int8Array(64 * tokens).fill(document % 100),
      scales: new Float32Array(tokens).fill(0.5),
      n: tokens,
      width: 64,
    },
    vector: Float32Array.from({ length: 8 }, (_, index) => Math.sin(document * 8 + chunk + index) + 0.1),
  }
}

async function add(documents: number): Promise<void> {
  await import('@lancedb/lancedb')
  say('ready')
  await using store = await openLanceStore(folder, { description })
  const complete = new Set<string>()
  for await (const { documentId } of store.documents()) complete.add(documentId)
  for (let document = 0; document < documents; document++) {
    if (!complete.has(`d${document}`)) {
      await store.add(
        [0, 1].map((chunk) => rowOf(document, chunk)),
        { fingerprint },
      )
      await store.add([rowOf(document, 2)], { fingerprint })
      await store.putDocuments([{ documentId: `d${document}`, contentHash: 'whole', chunks: 3, details: null }])
    }
    say(String(document))
  }
}

/** A row of a megabyte that no compression makes smaller. */
function large(document: number): StoreRow {
  const row = rowOf(document, 0, 2 ** 14)
  randomFillSync(row.memory.tokens)
  return row
}

async function fill(most: number): Promise<void> {
  await using store = await openLanceStore(folder, { description })
  let acknowledged = 0
  try {
    for (; acknowledged < most; acknowledged++) await store.add([large(acknowledged)], { fingerprint })
  } catch (error) {
    say(`error ${error instanceof Error ? `${error.name} ${error.message}` : error}`)
  }
  say(`acknowledged ${acknowledged}`)
}

async function write(): Promise<void> {
  await using store = await openLanceStore(folder, { description })
  say(`rows ${await store.count()}`)
  const found = await store.search(new Float32Array(8).fill(1), { fingerprint, limit: 1 })
  say(`found ${found.length}`)
  try {
    await store.add([rowOf(1_000, 0)], { fingerprint })
    say('added')
  } catch (error) {
    say(`error ${error instanceof Error ? `${error.name} ${error.message}` : error}`)
  }
}

if (task === 'add') await add(Number(number))
else if (task === 'fill') await fill(Number(number))
else if (task === 'write') await write()
else throw new Error(`unknown task ${task}`)
