import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { killWhileAdding } from './processes.ts'

test('killed while it adds, a knowledge base opens, is sound, has what was acknowledged, and the next add completes it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'clara-kills-'))
  try {
    await killWhileAdding(join(folder, 'kb'), 3, 500)
    expect(folder).not.toBe('')
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}, 120_000)
