import { expect, test } from 'vitest'
import { runChild } from '../../bench/child.ts'
import { ClaraError } from '../../src/errors.ts'

test("what is wrong in a child is the parent's error, in the child's words", async () => {
  const asked = runChild('./weights-child.ts', { model: '/nowhere/model', kind: 'int8', work: '/nowhere', threads: 1 })
  const error = await asked.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(ClaraError)
  expect(String(error)).toContain('/nowhere/model')
})
