"""Who writes the completions, and how they become micro-batches."""
