"""Pipelines as text, and what watches them run: printing, timing, dumping, verifying, shrinking."""
