"""A few completions token by token, measured by the trainer's own step, and what `unisd train` keeps of them."""
