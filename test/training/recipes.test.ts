import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { differingSettings, readSettings } from '../../src/training/config.ts'
import { readRunConfig } from '../../src/training/run-config.ts'
import { type StageConfig, stageConfigSchema } from '../../src/training/stages/config.ts'
import { composeStages } from '../../src/training/train-all.ts'

const root = join(import.meta.dirname, '..', '..')
const recipes = readdirSync(join(root, 'recipes')).map((name) => join('recipes', name))

async function configsOf(recipe: string): Promise<StageConfig[]> {
  const path = join(root, recipe)
  if (recipe.endsWith('.json')) return [await readRunConfig(path, stageConfigSchema)]
  return composeStages(await readSettings(path), stageConfigSchema, path)
}

test.each(recipes)('%s is valid, and learns from train files that are there and from no dev file', async (recipe) => {
  for (const { data, evaluation, base } of await configsOf(recipe)) {
    for (const { file } of data) expect(file).toMatch(/^datasets\/\w+\.train\.jsonl\.gz$/)
    const files = [...data, ...evaluation.data].flatMap(({ file, without = [] }) => [file, ...without])
    for (const file of [base, ...files]) expect(existsSync(join(root, file)), file).toBe(true)
  }
})

test('the stages of one file are those of the single recipes', async () => {
  const together = await configsOf('recipes/embedded-stages.yaml')
  const names = ['stage1_2', 'stage2-pretrain-b', 'stage2']
  expect(together).toHaveLength(names.length)
  for (const [index, name] of names.entries()) {
    const [single] = await configsOf(`recipes/embedded-${name}.json`)
    expect(differingSettings(single, together[index])).toEqual(index === 0 ? [] : ['initialise'])
  }
})

test('the two controls differ in what stands in the place of the documents, and nowhere else', async () => {
  const [[text], [empty]] = [
    await configsOf('recipes/embedded-control-text.json'),
    await configsOf('recipes/embedded-control-empty.json'),
  ]
  expect(differingSettings(text, empty)).toEqual(['background'])
})
