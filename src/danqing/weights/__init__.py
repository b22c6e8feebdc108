"""Weights files: names, precision, reading and writing. No pipelines, no prompts."""
