"""Log of interactions to frozen, memory-mapped data sets and splits."""
