"""How long the views of a data set are, in tokens, against their budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NUM_BINS = 5
LONGEST_BAR = 40


@dataclass(frozen=True)
class ViewReport:
    """Prompt lengths of a data set by view, as they were before anything was dropped or shortened."""

    lengths: Mapping[str, list[int]]
    """Tokens of each row's view; a row without a demonstration has no teacher view."""
    budgets: Mapping[str, int]
    """Largest length allowed, by view."""
    num_dropped: int = 0
    num_truncated: int = 0
    """Rows whose privileged context was shortened."""

    @property
    def num_over_budget(self) -> dict[str, int]:
        """Rows over budget, by view."""
        return {view: sum(length > self.budgets[view] for length in lengths) for view, lengths in self.lengths.items()}

    def text(self) -> str:
        """A histogram per view, six lines each, and what was dropped or shortened."""
        lines = [line for view in self.lengths for line in self._histogram(view)]
        if self.num_dropped or self.num_truncated:
            lines.append(f"{self.num_dropped} rows dropped, {self.num_truncated} with a shortened demonstration")
        return "\n".join(lines)

    def _histogram(self, view: str) -> list[str]:
        lengths = sorted(self.lengths[view])
        n = len(lengths)
        # Nearest rank: a length that occurs.
        median, high = lengths[(n - 1) // 2], lengths[-(-95 * n // 100) - 1]
        lines = [
            f"{view}: {n} rows, tokens min {lengths[0]}, median {median}, 95 % {high}, max {lengths[-1]}; "
            f"budget {self.budgets[view]}, {self.num_over_budget[view]} over"
        ]
        width = (lengths[-1] - lengths[0]) // NUM_BINS + 1
        counts = [0] * ((lengths[-1] - lengths[0]) // width + 1)
        for length in lengths:
            counts[(length - lengths[0]) // width] += 1
        for index, count in enumerate(counts):
            first = lengths[0] + index * width
            # A bin with one row among thousands still shows.
            bar = "#" * -(-LONGEST_BAR * count // max(counts))
            lines.append(f"  {first:>6} - {first + width - 1:<6} {bar} {count}".rstrip())
        return lines
