"""The benchmark's making: splits, topics, tables."""
