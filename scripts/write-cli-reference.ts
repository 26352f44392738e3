import { renameSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { cliReference } from '../src/cli/reference.ts'
import { verbs } from '../src/cli/verbs.ts'

const path = fileURLToPath(new URL('../docs/cli.md', import.meta.url))
writeFileSync(`${path}.new`, await cliReference(verbs))
renameSync(`${path}.new`, path)
