"""Results as people read them: rows, matrices over checkpoints, drawings of their tables, words for their metrics."""
