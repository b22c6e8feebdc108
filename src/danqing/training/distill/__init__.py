"""Distillation: a slow, guided teacher becomes a few-step adapter."""
