/** What every failure that a user can cause or mend carries: the thing, what was expected, what came, what to do next. */
export interface ErrorFacts {
  /** What was expected. */
  readonly expected?: string
  /** What came instead. */
  readonly received?: string
  /** What the reader can do about it. */
  readonly hint?: string
  readonly cause?: unknown
}

/** An error whose message is meant for the person at the keyboard; the command line prints it without a stack trace. */
export class ClaraError extends Error {
  override readonly name = 'ClaraError'
  readonly facts: ErrorFacts

  /**
   * @param problem One sentence that names the thing and what is wrong with it.
   * @param facts Expectation, what came, and the next step; appended to the message in that order.
   */
  constructor(problem: string, facts: ErrorFacts = {}) {
    const parts = [problem]
    if (facts.expected !== undefined) parts.push(`Expected ${facts.expected}.`)
    if (facts.received !== undefined) parts.push(`Got ${facts.received}.`)
    if (facts.hint !== undefined) parts.push(facts.hint)
    super(parts.join(' '), facts.cause === undefined ? undefined : { cause: facts.cause })
    this.facts = facts
  }
}
