"""The tests of unisd; a package, so that `from tests.tiny import ...` works whatever else is installed."""
