import { configDefaults, defineConfig } from 'vitest/config'

/** `vitest run` leaves out test/full, the tests that need minutes or the whole embedded model; `--mode full` runs everything. */
export default defineConfig(({ mode }) => ({
  test: {
    environment: 'node',
    // ONNX Runtime aborts the whole process when a thread is terminated during a run, so test files get processes, not threads.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    include: ['test/**/*.test.ts'],
    exclude: [...configDefaults.exclude, 'test/fixtures/**', ...(mode === 'full' ? [] : ['test/full/**'])],
  },
}))
