import { stripVTControlCharacters } from 'node:util'
import { describe, expect, test } from 'vitest'
import { ClaraError } from '../../src/errors.ts'
import { fakeVerb, runClara } from './fakes.ts'

/** Runs `find` with this body. */
const runFind = (run: Parameters<typeof fakeVerb>[0], words: readonly string[] = [], changes = {}) =>
  runClara(['find', 'why?', ...words], fakeVerb(run), changes)

describe('running a verb', () => {
  test('gives it its values and ends with status 0', async () => {
    let seen: unknown
    const result = await runFind((values) => {
      seen = values.question
    })
    expect(result).toEqual({ status: 0, stdout: '', stderr: '' })
    expect(seen).toBe('why?')
  })

  test('writes text to standard output and notes to standard error', async () => {
    const result = await runFind((_, context) => {
      context.write('stream')
      context.write('ed\n')
      context.print('a line')
      context.note('a note')
      context.status('not shown in a pipe')
      context.report({ answer: 42 })
    })
    expect(result).toEqual({ status: 0, stdout: 'streamed\na line\n', stderr: 'a note\n' })
  })

  test('with --json writes the one JSON object, and nothing else to standard output', async () => {
    const result = await runFind(
      (_, context) => {
        expect(context.json).toBe(true)
        context.write('text')
        context.print('a line')
        context.note('a note')
        context.report({ answer: 'ü\n' })
      },
      ['--json'],
    )
    expect(result).toEqual({ status: 0, stdout: '{"answer":"ü\\n"}\n', stderr: 'a note\n' })
  })

  test.each([
    ['no result', 0, /reported no result for --json/],
    ['two results', 2, /reports its result once/],
  ])('with --json and %s is a fault of the verb', async (_, reports, message) => {
    const result = await runFind(
      (_values, context) => {
        for (let count = 0; count < reports; count++) context.report({})
      },
      ['--json'],
    )
    expect(result.status).toBe(1)
    expect(result.stderr).toMatch(message)
  })

  test('in a terminal shows a status line and removes it before text and at the end', async () => {
    const result = await runFind(
      (_, context) => {
        expect(context.interactive).toBe(true)
        context.status('step 1')
        context.print('answer')
        context.status('step 2')
      },
      [],
      { terminal: true },
    )
    const cleared = '\r\u001b[2K'
    expect(result.stderr).toBe(`${cleared}step 1${cleared}${cleared}step 2${cleared}`)
    expect(result.stdout).toBe('answer\n')
  })
})

describe('failing', () => {
  test('a ClaraError is one readable message, status 1', async () => {
    const result = await runFind(() => {
      throw new ClaraError('The file "a\u001b[2J" is not a GGUF.', {
        expected: 'the letters GGUF',
        hint: 'Try another.',
      })
    })
    expect(result.status).toBe(1)
    expect(result.stdout).toBe('')
    expect(result.stderr).toBe('clara: The file "a\\x1b[2J" is not a GGUF. Expected the letters GGUF. Try another.\n')
  })

  test('an unexpected error is a short message, with its stack only for CLARA_DEBUG=1', async () => {
    const fail = () => {
      throw new TypeError('x is not a function')
    }
    const short = await runFind(fail)
    expect(short.status).toBe(1)
    expect(short.stderr).toBe('clara: unexpected error: x is not a function\nCLARA_DEBUG=1 shows where it happened.\n')
    const long = await runFind(fail, [], { environment: { CLARA_DEBUG: '1' } })
    expect(long.stderr).toMatch(/TypeError: x is not a function\n +at .*command-line\.test\.ts/)
    const thrown = await runFind(() => Promise.reject('just text'))
    expect(thrown).toMatchObject({ status: 1, stderr: expect.stringContaining('unexpected error: just text') })
  })

  test('wrong usage is status 2', async () => {
    const flag = await runFind(() => undefined, ['--topk=3'])
    expect(flag).toMatchObject({ status: 2, stdout: '' })
    expect(flag.stderr).toBe('clara: clara find has no flag --topk. Did you mean --top-k?\n')
    const verb = await runClara(['fidn'])
    expect(verb).toEqual({
      status: 2,
      stdout: '',
      stderr: 'clara: clara has no verb "fidn". Did you mean clara find?\n',
    })
    expect(await runClara(['constructor'])).toMatchObject({ status: 2 })
    expect(await runClara(['help', 'nothing-like-it'])).toMatchObject({ status: 2, stdout: '' })
    expect(await runClara(['version', 'extra'])).toMatchObject({ status: 2, stdout: '' })
  })
})

describe('interrupting', () => {
  const interrupted = (run: (controller: AbortController) => void | Promise<void>, words: readonly string[] = []) => {
    const controller = new AbortController()
    return runFind(() => run(controller), words, { signal: controller.signal })
  }

  test('ends with status 130, whether the verb returns or throws the reason', async () => {
    expect(await interrupted((controller) => controller.abort())).toEqual({ status: 130, stdout: '', stderr: '' })
    expect(await interrupted((controller) => controller.abort(), ['--json'])).toMatchObject({ status: 130, stderr: '' })
    const thrown = await interrupted((controller) => {
      controller.abort()
      controller.signal.throwIfAborted()
    })
    expect(thrown).toEqual({ status: 130, stdout: '', stderr: 'Interrupted.\n' })
    const own = await interrupted((controller) => {
      controller.abort(new Error('stop'))
      throw new DOMException('stopped', 'AbortError')
    })
    expect(own.status).toBe(130)
  })

  test('does not hide an error on the way out', async () => {
    const result = await interrupted((controller) => {
      controller.abort()
      throw new ClaraError('The disk is full.')
    })
    expect(result).toEqual({ status: 1, stdout: '', stderr: 'clara: The disk is full.\n' })
  })

  test('an abort of something else is an error', async () => {
    const result = await runFind(() => Promise.reject(new DOMException('timed out', 'AbortError')))
    expect(result.status).toBe(1)
    expect(result.stderr).toContain('timed out')
  })
})

describe('help and version', () => {
  test.each([[[]], [['--help']], [['-h']], [['help']], [['help', '--help']]])(
    'clara %j lists the verbs without loading one',
    async (words) => {
      const result = await runClara(words)
      expect(result).toMatchObject({ status: 0, stderr: '' })
      expect(result.stdout).toMatch(/^ {2}find {5}Find passages for a question$/m)
      expect(result.stdout).toMatch(/^ {2}broken {3}A verb that cannot be loaded$/m)
      expect(result.stdout).toMatch(/^ {2}version {2}Show the version$/m)
    },
  )

  test.each([[['find', '--help']], [['help', 'find']], [['find', '--no-such', '-h']]])(
    'clara %j describes the flags',
    async (words) => {
      const { status, stdout } = await runClara(words)
      expect(status).toBe(0)
      expect(stdout).toBe(
        [
          'Find passages for a question',
          '',
          'Usage',
          '  clara find QUESTION [DOCUMENTS …] [flags]',
          '',
          'Flags',
          '  --question TEXT           The question to answer (required)',
          '  --documents TEXT          Text files to search (may be repeated)',
          '  --top-k NUMBER            How many passages to read (default 5)',
          '  --similarity flat|maxsim  How memory is compared (default maxsim)',
          '  --no-stream               Wait for the whole answer (on by default)',
          '  --verbose                 Say more',
          '  --seed NUMBER             Seed of the sampler',
          '  --stop-word TEXT          Where to stop',
          '  --json                    Print the result as one JSON object',
          '  --help                    Show this text',
          '',
        ].join('\n'),
      )
    },
  )

  test("help fits the terminal's width and is coloured there", async () => {
    const { stdout } = await runClara(['find', '--help'], fakeVerb(), { terminal: true })
    expect(stdout).toContain('\u001b[1mFlags\u001b[22m')
    const plain = stripVTControlCharacters(stdout).split('\n')
    expect(Math.max(...plain.map((line) => line.length))).toBeLessThanOrEqual(60)
    expect(plain).toContain(`${' '.repeat(28)}maxsim)`)
  })

  test('the version, as text and as JSON', async () => {
    expect(await runClara(['version'])).toEqual({ status: 0, stdout: '1.2.3\n', stderr: '' })
    expect(await runClara(['--version'])).toEqual({ status: 0, stdout: '1.2.3\n', stderr: '' })
    expect((await runClara(['version', '--json'])).stdout).toBe('{"version":"1.2.3"}\n')
  })

  test('the list of verbs as JSON', async () => {
    const { stdout } = await runClara(['help', '--json'])
    expect(JSON.parse(stdout)).toEqual({
      verbs: [
        { name: 'find', summary: 'Find passages for a question' },
        { name: 'broken', summary: 'A verb that cannot be loaded' },
      ],
    })
  })
})
