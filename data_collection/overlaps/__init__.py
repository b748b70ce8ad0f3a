"""Texts that occur twice, and test questions that occur in training data."""
