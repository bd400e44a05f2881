"""Passes over the models: which are needed, how each is run, and what the tokens score."""
