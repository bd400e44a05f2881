"""`unisd study`: recipes over seeds, each run in a process of its own, and one table that says what helped."""
