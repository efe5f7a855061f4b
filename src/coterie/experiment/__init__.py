"""Online experiments: who sees which model, and what came of it. Nothing here needs torch."""
