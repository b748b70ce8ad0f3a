"""Which documents are medical and fit to learn from."""
