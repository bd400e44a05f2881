"""Rows as examples, under the name that the layers above use; the tasks read rows too, so the checks stand there."""

from __future__ import annotations

from unisd.tasks.rows import COLUMNS, as_example

__all__ = ["COLUMNS", "as_example"]
