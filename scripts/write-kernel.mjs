/** Compiles src/store/late/kernel.wat into kernel-bytes.ts. Run it when the one has changed: `node scripts/write-kernel.mjs`. */
import { readFile, writeFile } from 'node:fs/promises'
import wabt from 'wabt'

const source = new URL('../src/store/late/kernel.wat', import.meta.url)
const compiler = await wabt()
const module = compiler.parseWat('kernel.wat', await readFile(source, 'utf8'), { simd: true })
module.validate()
const lines = Buffer.from(module.toBinary({}).buffer)
  .toString('base64')
  .match(/.{1,100}/g)
  ?.map((line) => `  '${line}',`)
await writeFile(
  new URL('kernel-bytes.ts', source),
  `/** kernel.wat, compiled by scripts/write-kernel.mjs, in base64. */\nexport const kernelBytes = [\n${lines?.join('\n')}\n].join('')\n`,
)
