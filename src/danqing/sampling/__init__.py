"""The formulas of sampling: flow matching, schedules, guidance, noise. No prompts, no files."""
