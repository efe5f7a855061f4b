"""One explicit training loop with exact resume."""
