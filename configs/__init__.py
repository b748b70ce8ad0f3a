"""What every stage must agree on: settings, languages, errors, run records, progress, files.

Standard library and yaml only; knows no stage, no model, no metric.
"""
