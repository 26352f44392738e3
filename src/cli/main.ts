#!/usr/bin/env node
import { runProgram } from './program.ts'
import { verbs } from './verbs.ts'

await runProgram(verbs, process.argv.slice(2))
