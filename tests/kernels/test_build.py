"""The C rows are compiled once per machine, whoever asks first, and done without where they cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from unisd.kernels import build

SCORE = """
import logging, torch
logging.basicConfig(format="%(message)s")
from unisd.kernels import token_scores
from unisd.kernels.dispatch import rows_for
states, head = torch.randn(4, 8, requires_grad=True), torch.randn(30, 8)
for _ in range(2):
    token_scores(states, head, torch.randn(4, 8), ids=torch.arange(4)).divergence.sum().backward()
print(type(rows_for(states.device, torch.float32)).__name__)
"""


def processes(folder: Path, *, num: int = 1, script: str = SCORE, **environment: str) -> list[tuple[str, str]]:
    """What `num` fresh processes that start at the same time print, and what they log."""
    source = str(Path(build.__file__).parents[2])
    environment = {**os.environ, "UNISD_CACHE": str(folder), "PYTHONPATH": source, **environment}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(num)
    ]
    printed = [process.communicate(timeout=120) for process in started]
    assert all(process.returncode == 0 for process in started), printed
    return [(output.strip(), log) for output, log in printed]


def libraries(folder: Path) -> list[Path]:
    return sorted((folder / "kernels").iterdir())


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, in a process that has not asked for the rows yet."""
    monkeypatch.setenv("UNISD_CACHE", str(tmp_path))
    build._outcome.cache_clear()
    yield tmp_path
    build._outcome.cache_clear()


def test_two_processes_that_compile_at_once_leave_one_library(tmp_path: Path) -> None:
    assert processes(tmp_path, num=2) == [("CRows", "")] * 2
    (library,) = libraries(tmp_path)
    before = library.stat().st_mtime_ns
    assert processes(tmp_path) == [("CRows", "")]
    assert libraries(tmp_path) == [library]
    assert library.stat().st_mtime_ns == before


def test_threads_that_ask_at_once_compile_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, compile_once = [], build._compiled

    def counted(*arguments) -> Path:
        compiled.append(threading.get_ident())
        return compile_once(*arguments)

    monkeypatch.setattr(build, "_compiled", counted)
    rows: list[object] = []
    threads = [threading.Thread(target=lambda: rows.append(build.c_rows())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled) == 1
    assert len(rows) == 4
    assert len(set(map(id, rows))) == 1


@pytest.mark.parametrize("damage", [lambda content: content[:1000], lambda content: content[:-1] + b"!"])
def test_a_damaged_library_is_never_loaded_but_compiled_again(
    fresh: Path, damage, caplog: pytest.LogCaptureFixture
) -> None:
    build.c_rows()
    (library,) = libraries(fresh)
    sound = library.read_bytes()
    library.unlink()  # the loaded one stays as it is
    library.write_bytes(damage(sound))
    build._outcome.cache_clear()

    build.c_rows()

    assert "damaged" in caplog.text
    assert libraries(fresh) == [library]
    assert library.read_bytes() == sound


def test_another_source_or_another_flag_is_another_library(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.c_rows()
    build._outcome.cache_clear()
    monkeypatch.setattr(build, "_FLAGS", [*build._FLAGS, "-DUNUSED"])
    build.c_rows()
    assert len(libraries(fresh)) == 2


def test_without_a_compiler_pytorch_computes_and_the_log_says_so_once(tmp_path: Path) -> None:
    ((rows, log),) = processes(tmp_path, PATH=str(tmp_path), CC="")
    assert rows == "TorchRows"
    assert log.count("The loss runs in plain PyTorch") == 1
    assert "neither $CC nor cc, gcc or clang" in log


def test_a_compiler_that_fails_is_named_with_its_error(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = fresh / "broken"
    compiler.write_text("#!/bin/sh\necho 'no such thing' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(build.BuildError, match=r"broken does not compile rows.c: no such thing"):
        build.c_rows()
    assert libraries(fresh) == []


def test_where_nothing_can_be_kept_the_rows_are_compiled_for_this_process(
    tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNISD_CACHE", str(tmp_path / "file" / "below"))
    assert build.c_rows() is build.c_rows()
