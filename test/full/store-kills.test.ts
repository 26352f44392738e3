import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { killWhileAdding } from '../store/processes.ts'

test('killed fifty times at random moments while it adds, a process loses nothing that was acknowledged', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'clara-store-kills-'))
  try {
    await killWhileAdding(join(folder, 'store'), 50)
    expect(folder).not.toBe('')
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}, 1_800_000)
