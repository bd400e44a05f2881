"""Files of built contexts: found by content, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from unisd.contexts.cache import Built, cached, content_hash

KEY = content_hash("model", ["prompt"], {"seed": 0})
ROWS = [{"text": "größer"}, {"failure": "right"}, [1, 2]]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("UNISD_CACHE", str(tmp_path))
    return tmp_path / "contexts"


def build() -> list:
    return ROWS


def refuse() -> list:
    raise AssertionError("built again")


def test_the_second_call_finds_what_the_first_built():
    first = cached("negatives", KEY, build)
    second = cached("negatives", KEY, refuse)
    assert first.is_new
    assert second == Built(ROWS, first.seconds, is_new=False, path=first.path)
    assert [path.name for path in first.path.parent.iterdir()] == [f"negatives-{KEY[:32]}.json"]


def test_the_key_depends_on_every_part_and_not_on_the_order_of_names():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    parts = [("m", "p"), ("p", "m"), ("mp",), ("m", "p", 0), ("m", "p", None), (["m", "p"],)]
    assert len({content_hash(*part) for part in parts}) == len(parts)
    other = content_hash("model", ["prompt"], {"seed": 1})
    assert cached("negatives", KEY, build).path != cached("negatives", other, build).path


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def edited(content: bytes) -> bytes:
    return content.replace("größer".encode(), b"kleiner")


def foreign(content: bytes) -> bytes:
    return json.dumps({"text": "mine"}).encode()


def older(content: bytes) -> bytes:
    return content.replace(b"unisd contexts 1", b"unisd contexts 0")


def of_another_build(content: bytes) -> bytes:
    return content.replace(KEY.encode(), content_hash("other").encode())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "cannot be read"),
        (edited, "does not match its checksum"),
        (foreign, "is not in the format"),
        (older, "is not in the format"),
        (of_another_build, "belongs to another build"),
        (lambda content: b"", "cannot be read"),
        (lambda content: b"\xff\xfe", "cannot be read"),
        (lambda content: b"[" * 100_000, "cannot be read"),
        (lambda content: b"[]", "is not in the format"),
    ],
)
def test_a_damaged_or_foreign_file_is_built_again_with_a_warning(damage: Callable[[bytes], bytes], message, caplog):
    path = cached("negatives", KEY, build).path
    whole = path.read_bytes()
    assert damage(whole) != whole
    path.write_bytes(damage(whole))
    again = cached("negatives", KEY, build)
    assert (again.rows, again.is_new) == (ROWS, True)
    assert message in caplog.text
    assert cached("negatives", KEY, refuse).rows == ROWS


def test_a_build_that_fails_or_is_killed_while_writing_leaves_no_file(folder, monkeypatch):
    with pytest.raises(AssertionError, match="built again"):
        cached("negatives", KEY, refuse)
    assert not folder.exists()

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cached("negatives", KEY, build)
    assert list(folder.iterdir()) == []
    assert cached("negatives", KEY, build).is_new


def test_without_a_folder_to_write_to_the_rows_are_used_all_the_same(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNISD_CACHE", str(tmp_path / "file"))
    built = cached("negatives", KEY, build)
    assert (built.rows, built.path) == (ROWS, None)
    assert "cannot be written" in caplog.text
