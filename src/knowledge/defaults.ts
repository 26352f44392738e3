/** Passages of which the model's own score is computed, where nobody says otherwise. Apart from the search, so that a command line can say it without loading one. */
export const CANDIDATES = 160
