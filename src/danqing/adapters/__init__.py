"""Adapters: reading LoRA files of every naming, applying them, merging, converting, storing."""
