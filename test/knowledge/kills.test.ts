import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { KnowledgeBase } from '../../src/knowledge/knowledge-base.ts'
import { fakeModel } from './fake-model.ts'

const script = fileURLToPath(new URL('./adder.ts', import.meta.url))
const root = dirname(dirname(dirname(script)))
/** Documents in all; each has eight passages. */
const COUNT = 400

/** Adds until it is killed, some time after the first documents were acknowledged, or to the end. */
async function add(folder: string, killAfterMs: number | undefined): Promise<number> {
  const child = spawn(process.execPath, ['--import', 'tsx', script, folder, String(COUNT)], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let acknowledged = 0
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    acknowledged = Number(text.trim().split('\n').at(-1))
    if (killAfterMs !== undefined) setTimeout(() => child.kill('SIGKILL'), killAfterMs)
  })
  await new Promise((resolve) => child.on('close', resolve))
  return acknowledged
}

test('killed while it adds, a knowledge base opens, is sound, has what was acknowledged, and the next add completes it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'clara-kills-'))
  const path = join(folder, 'kb')
  try {
    for (const killAfterMs of [10, 70, undefined]) {
      const acknowledged = await add(path, killAfterMs)
      await using knowledge = await KnowledgeBase.open(path, { clara: fakeModel() })
      expect((await knowledge.verify()).damaged).toEqual([])
      const { documents = 0, incomplete = 0, chunks = 0 } = (await knowledge.stats()) ?? {}
      expect(documents).toBeGreaterThanOrEqual(acknowledged)
      expect(documents + incomplete).toBeLessThanOrEqual(acknowledged + 20)
      const ids = Array.from({ length: acknowledged }, (_, index) => `d${index}`)
      expect(await knowledge.count({ documentIds: ids })).toBe(8 * acknowledged)
      expect(chunks).toBeLessThanOrEqual(8 * (acknowledged + 20))
      if (killAfterMs === undefined)
        expect({ documents, incomplete, chunks }).toEqual({ documents: COUNT, incomplete: 0, chunks: 8 * COUNT })
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}, 120_000)
