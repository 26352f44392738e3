/** What a reading process says when it can read a file but the file cannot be used; the caller adds the file's name. */
export class Refusal extends Error {
  /**
   * @param {string} problem goes on from the file's name, such as "is encrypted"
   * @param {{ expected?: string, received?: string, hint?: string }} [facts]
   */
  constructor(problem, facts = {}) {
    super(problem)
    this.facts = facts
  }
}
