"""Where own data comes from: a local file, a folder, or the hub; and readable errors when it does not come."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
"""How a local file is read, by its ending; `.gz` may follow."""

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class DataSource:
    """One data set of own rows, and what grades the answers to it."""

    path: str
    """A .jsonl, .json, .csv or .parquet file (or one of these with .gz), a folder of such files, or a hub id."""
    name: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """Split of a folder or hub data set; a single file is one split, `train`. Slices such as `train[:100]` work."""
    data_files: str | list[str] | None = None
    """Which files of the folder or hub data set."""
    grader: str | None = None
    """Grades completions: exact_match(_ignore_case), contains, regex, numeric, json, or `pkg.module:function`."""
    task: str | None = None
    """The rows are of this task's schema (cos_e, mbpp ...), which then makes the prompts and grades."""

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise ValueError("path: is empty. Give a file, a folder, or the id of a data set on the hub.")
        if _ending(Path(self.path)) in FORMATS and (self.name or self.data_files):
            key = "name" if self.name else "data_files"
            raise ValueError(
                f"{key}: {self.path} is one file, so there is nothing to choose. Remove {key}, or give the folder."
            )

    def load(self, limit: int | None = None) -> list[dict[str, Any]]:
        """All rows or the first `limit`, with the same columns each; a `ValueError` says what is unreadable."""
        return list(itertools.islice(self.rows(), limit))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows one by one, at least one; images stay as they are stored."""
        # Slow to import, and a generated task does not need it.
        from datasets import Dataset, Features, Image, Json, load_dataset
        from datasets.exceptions import DatasetsError

        local = Path(self.path).expanduser()
        self._check_exists(local)
        arguments: dict[str, Any] = {"path": self.path, "name": self.name, "data_files": self.data_files}
        if local.is_file():
            arguments = {"path": FORMATS[_ending(local)], "data_files": str(local)}
        elif local.is_dir():
            arguments["path"] = str(local)
        try:
            data = load_dataset(**arguments, split=self.split)
            assert isinstance(data, Dataset)
            # The reader of JSON takes text such as 2024-05-01 for a time; as `Json` a column stays what was written.
            dated = {name: Json() for name, feature in data.features.items() if "'timestamp[" in repr(feature)}
            if dated and data.info.builder_name == "json":
                data = load_dataset(**arguments, split=self.split, features=Features({**data.features, **dated}))
                assert isinstance(data, Dataset)
            num_rows = len(data)
            for column, feature in data.features.items():
                if isinstance(feature, Image):
                    data = data.cast_column(column, Image(decode=False))
            yield from map(dict, data)
        # An empty JSON file ends in StopIteration, a data set that is a script in RuntimeError.
        except (DatasetsError, OSError, ValueError, StopIteration, RuntimeError) as error:
            raise ValueError(_explanation(self, local, error)) from error
        if not num_rows:
            raise ValueError(_no_rows(self))

    def _check_exists(self, local: Path) -> None:
        if local.is_dir():
            return
        if local.is_file():
            if _ending(local) not in FORMATS:
                raise ValueError(
                    f"{self.path}: the ending {local.suffix!r} cannot be read. Allowed: {', '.join(FORMATS)}, "
                    "each also with .gz."
                )
            return
        if _ending(local) in FORMATS or not _HUB_ID.fullmatch(self.path):
            raise ValueError(f"{self.path}: no such file or folder (looked in {Path.cwd()}). Correct the path.")


def _ending(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _explanation(source: DataSource, local: Path, error: Exception) -> str:
    fault = _first_line(error.__cause__ or error)
    # The readers' words for: an empty file, a table with a header only, a table without a header.
    if isinstance(error, StopIteration) or "corresponds to no data" in fault or "No columns to parse" in fault:
        return _no_rows(source)
    if not local.exists():
        return (
            f"{source.path}: neither a file or folder here nor a data set that the hub gave ({fault}). "
            "Correct the path, or the name and split, or check the connection."
        )
    unreadable = _unreadable_json([local] if local.is_file() else sorted(local.rglob("*.json*")))
    if unreadable:
        return f"{unreadable}. Correct the line; .jsonl holds one JSON object per line."
    return f"{source.path}: cannot be read ({fault}). Correct the file, or the options of the source."


def _no_rows(source: DataSource) -> str:
    return f"{source.path}: no rows in split {source.split!r}. Give a file or a split with at least one row."


def _unreadable_json(files: list[Path]) -> str | None:
    """File, line and fault of the first JSON that is not rows; the reader itself names neither reliably."""
    for file in files:
        if FORMATS.get(file.suffix) != "json":
            continue
        content = file.read_bytes()
        is_one_list = file.suffix == ".json" and content.lstrip()[:1] == b"["
        for number, line in enumerate([content] if is_one_list else content.splitlines(), start=1):
            try:
                value = json.loads(line or b"{}")
            except json.JSONDecodeError as error:
                number = error.lineno if is_one_list else number
                return f"{file}, line {number}: not JSON, {error.msg} at column {error.colno}"
            except UnicodeDecodeError as error:
                return f"{file}, line {number}: not UTF-8 text ({error.reason})"
            if not is_one_list and not isinstance(value, dict):
                return f"{file}, line {number}: not a JSON object but {value!r}"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
