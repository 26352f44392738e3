import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { killWhileAdding } from '../knowledge/processes.ts'

test('killed fifty times at random moments while it adds, a knowledge base loses nothing that was acknowledged', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'clara-knowledge-kills-'))
  try {
    await killWhileAdding(join(folder, 'kb'), 50, 1_500)
    expect(folder).not.toBe('')
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}, 1_800_000)
