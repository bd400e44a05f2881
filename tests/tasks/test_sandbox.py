"""Right code passes, wrong code and hostile code do not, and nothing of it stays behind."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.sandbox.hostile import FILES, NETWORK, PROGRAMS
from unisd.tasks import sandbox
from unisd.tasks.sandbox import SandboxJob, check_available, run_many, run_tests

DATA = Path(os.environ.get("UNISD_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))
# Every reference solution takes 35 seconds of one core, so that only CI runs them all.
EVERY = 1 if os.environ.get("CI") else 5
RIGHT = "def f(number):\n    return number + 1\n"
TEST = "assert f(1) == 2"
SOURCE_ROOT = str(Path(__file__).parents[2] / "src")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


def processes_left(asker: int | None = None) -> list[str]:
    """Command lines of sandbox processes that this process, or `asker`, started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"unisd.sandbox.supervisor" in b" ".join(words) and str(asker or os.getpid()).encode() in words:
            found.append(str(words))
    return found


def number_of_zombies() -> int:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return sum(") Z " in Path(f"/proc/{child}/stat").read_text() for child in children)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hostile_program_does_not_pass_and_leaves_nothing(name, tmp_path):
    code, reason = PROGRAMS[name]
    (tmp_path / "canary").write_text("alive")
    zombies = number_of_zombies()
    timeout = 1.0 if "timeout" in reason else 20.0
    result = run_tests(code.replace("{outside}", str(tmp_path)), TEST, timeout=timeout, memory_mib=256)
    assert not result.passed
    assert re.match(reason, result.reason), result.reason
    assert result.seconds < timeout + 5
    assert processes_left() == []
    assert number_of_zombies() <= zombies
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]
    assert not Path("/written").exists()
    assert run_tests(RIGHT, TEST).passed


HARMLESS = ["reads /etc/passwd", "reads its own command line", "lists the root", "writes outside", "removes a file",
            "links to a file", "makes a folder", "makes a temporary file", "makes a file in memory",
            "opens a Unix socket", "opens a pair of sockets"]  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_without_the_sandbox_the_attack_succeeds(name, tmp_path):
    (tmp_path / "canary").write_text("alive")
    namespace = {}
    exec({**FILES, **NETWORK}[name][0].replace("{outside}", str(tmp_path)), namespace)
    assert namespace["f"](1) == 2


def test_every_system_call_that_is_not_allowed_is_refused():
    code = f"""
import ctypes, os, sys
sys.path.insert(0, {SOURCE_ROOT!r})
from unisd.sandbox.seccomp import allowed_numbers

LIBRARY = ctypes.CDLL(None, use_errno=True)

def permitted(machine):
    found = []
    # The kernel itself exempts 335 and 336 of x86-64: return probes, which end the process.
    for number in set(range(600)) - set(allowed_numbers(machine)) - set([335, 336] if machine == "x86_64" else []):
        ctypes.set_errno(0)
        if LIBRARY.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1:
            found.append(number)
    return found
"""
    assert run_tests(code, f"assert permitted({os.uname().machine!r}) == []").reason == "passed"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86-64")
def test_a_system_call_of_another_architecture_ends_the_process():
    code = """
import ctypes, mmap
PAGE = mmap.mmap(-1, 4096, prot=7)
# mov eax, 20 (getpid of the 32-bit table); int 0x80; ret
PAGE.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(PAGE)))

def f(number):
    return call()
"""
    assert run_tests(code, TEST).reason == "killed: the code was ended by SIGSYS"


def test_the_code_sees_no_environment_and_no_descriptors_of_ours(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "secret")
    read, write = os.pipe()
    os.set_inheritable(write, True)
    code = """
import os

def environment():
    return dict(os.environ)

def writable():
    found = []
    for number in range(1024):
        try:
            os.write(number, b"")
            found.append(number)
        except OSError:
            pass
    return found
"""
    try:
        # Three times the null device and the two ends of the conversation, one of which can be written.
        result = run_tests(code, ["assert environment() == {}", "assert writable() == [0, 1, 2, 101]"])
    finally:
        os.close(read)
        os.close(write)
    assert result.reason == "passed"


STACK = """
class Stack:
    def __init__(self):
        self.items = []
    def push(self, item):
        self.items.append(item)
    def __len__(self):
        return len(self.items)
"""
POINT = """
from dataclasses import dataclass

@dataclass
class Point:
    x: int

def f(x):
    print(x)
    return Point(x)
"""
IMPORTS = """
import os.path, re as r
from xml.etree import (
    ElementTree as E,
)

def f():
    return r.sub("a", "b", "a"), E.fromstring("<x/>").tag
"""
RAISES = """
try:
    f(1)
    assert False
except ValueError as error:
    assert str(error) == "no"
"""
RIGHT_CODE = {
    "named like a built-in": ("def sum(a, b):\n    return a + b", "assert sum(10, 15) == 25"),
    "imports what the tests read": (
        "import sys\ndef f(x):\n    return sys.getsizeof(x)",
        "assert f((1,)) == sys.getsizeof((1,))",
    ),
    "raises what is expected": ("def f(x):\n    raise ValueError('no')", RAISES),
    "generator": ("def f(n):\n    yield from range(n)", ["assert list(f(3)) == [0, 1, 2]", "assert 2 in f(3)"]),
    "takes types and functions": (
        "def f(kind, function):\n    return kind('3'), function([1, 2])",
        "assert f(int, len) == (3, 2)",
    ),
    "returns a function": ("def f(x):\n    return lambda y: x + y", "assert f(1)(2) == 3"),
    "class": (STACK, ["s = Stack()", "assert not s", "s.push(4)", "assert len(s) == 1 and s.items == [4]"]),
    "data class, and prints": (POINT, "assert f(3).x == 3 and str(f(3)) == 'Point(x=3)'"),
    "fraction": (
        "from fractions import Fraction\ndef f():\n    return Fraction(1, 3)",
        "import fractions\nassert f() == fractions.Fraction(1, 3)",
    ),
    "decimal, which the tests do not import": (
        "from decimal import Decimal\ndef f():\n    return [Decimal(2)]",
        "assert f() == [2]",
    ),
    "dispatch by type": (
        "from functools import singledispatch\n@singledispatch\ndef f(x):\n    return 0\n"
        "@f.register\ndef _(x: int):\n    return 1",
        "assert (f('a'), f(2)) == (0, 1)",
    ),
    "later import of a submodule": (
        "from xml.dom import minidom\ndef f(x):\n    return minidom.parseString(x).documentElement.tagName",
        "assert f('<a/>') == 'a'",
    ),
    "later import": (
        "from datetime import datetime\ndef f():\n    return datetime.strptime('2020', '%Y').year",
        "assert f() == 2020",
    ),
    "codec": ("import codecs\ndef f():\n    return codecs.encode('a', 'rot13')", "assert f() == 'n'"),
    "constant": ("VALUE = float('nan')", "assert VALUE != VALUE"),
    "imports of every form": (IMPORTS, "assert f() == ('b', 'x')"),
}


@pytest.mark.parametrize("name", RIGHT_CODE)
def test_right_code_of_many_kinds_passes(name):
    assert run_tests(*RIGHT_CODE[name]).reason == "passed"


def test_given_code_runs_before_the_code_which_may_begin_with_a_future_import():
    code = "from __future__ import annotations\n\ndef f(x: Missing):\n    return one(x) + 1"
    assert run_tests(code, "assert f(1) == 2", given_code="def one(x):\n    return x").passed
    assert not run_tests(code, "assert f(1) == 2").passed


def test_annotations_of_the_code_are_what_python_makes_of_them():
    assert run_tests("def f(number: int):\n    return f.__annotations__['number']('1') + 1", TEST).passed
    # Python 3.14 no longer looks at an annotation that nobody asks for.
    forgotten = run_tests("def f(number) -> List[int]:\n    return number + 1", TEST)
    assert forgotten.passed is (sys.version_info >= (3, 14)), forgotten.reason


def test_what_the_setup_defines_is_not_replaced_by_the_code():
    setup = (
        "import math\ndef poly(xs, x):\n    return sum(a * x**i for i, a in enumerate(xs))\n"
        "def find_zero(xs):\n    import math\n    'A zero.'"
    )
    test = "assert math.isclose(poly([-2, 1], find_zero([-2, 1])), 0)"
    cheat = "class math:\n    def isclose(*_): return True\ndef poly(*_): return 0\ndef find_zero(xs): return {}"
    assert run_tests(cheat.format(2), test, setup=setup).reason == "passed"
    assert run_tests(cheat.format(3), test, setup=setup).reason.startswith("assertion failed")


@pytest.mark.parametrize("shadow", ["set = lambda _: 0", "class math:\n    def floor(_): return 0"])
def test_the_code_cannot_replace_what_the_tests_compare_with(shadow):
    code = f"{shadow}\ndef f(x):\n    return 7"
    assert run_tests(code, "assert set([math.floor(f(1))]) == set([2])").reason.startswith("assertion failed")


def test_the_code_cannot_end_a_loop_of_the_tests():
    loop = "for found, wanted in zip(map(f, [1]), [2]):\n    assert found == wanted"
    assert run_tests(RIGHT, loop).passed
    assert run_tests("def f(x):\n    raise StopIteration", loop).reason.startswith("raised RuntimeError")


def test_tests_that_catch_everything_do_not_pass_when_the_code_has_gone():
    careless = "try:\n    f(1)\nexcept BaseException:\n    pass"
    assert run_tests(RIGHT, careless).passed
    assert not run_tests("import os\ndef f(x):\n    os._exit(0)", careless).passed


def test_a_failed_test_is_named_by_its_line():
    check = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 4\ncheck(f)"
    assert run_tests(RIGHT, check).reason == "assertion failed: assert candidate(2) == 4"
    assert run_tests("def g(): pass", check).reason == "raised NameError: name 'f' is not defined"
    assert run_tests("def f(", check).reason.startswith("raised SyntaxError")


def test_arguments_are_copies():
    assert run_tests("def f(x):\n    x.sort()", ["x = [2, 1]", "f(x)", "assert x == [2, 1]"]).passed


@pytest.mark.parametrize(
    ("tests", "options", "message"),
    [
        ([], {}, "no tests were given"),
        ([TEST], {"timeout": 0.0}, "timeout must be a positive number"),
        ([TEST], {"memory_mib": 1}, "memory_mib must be at least 64"),
        (["assert f("], {}, "do not run: SyntaxError"),
        ([TEST], {"setup": "import no_such_module"}, "do not run: ModuleNotFoundError"),
        (["import no_such_module", TEST], {}, "import what the sandbox does not have"),
        (["assert f(lambda: 1) == 2"], {}, "hand over a function"),
    ],
)
def test_tests_that_no_code_can_pass_are_refused(tests, options, message):
    with pytest.raises(ValueError, match=message):
        run_tests(RIGHT, tests, **options)


def test_tests_that_use_nothing_of_the_code_do_not_pass():
    check = "def check(candidate):\n    assert candidate(1) == 2"
    assert run_tests(RIGHT, check).reason == "protocol: the tests use nothing that the code defines"


def test_a_platform_that_cannot_confine_is_refused_and_this_one_can(monkeypatch):
    check_available()
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    with pytest.raises(ValueError, match="needs Linux on aarch64 or x86_64, this is linux on riscv64"):
        check_available()


def test_a_kernel_without_filters_is_refused(monkeypatch):
    without = (
        "import sys; sys.path[0] = sys.argv[1]; from unisd.sandbox import confine, supervisor\n"
        "def install_filter(): raise OSError(22, 'prctl(22): Invalid argument')\n"
        "confine.install_filter = install_filter\n"
        "supervisor.main()"
    )
    monkeypatch.setattr(sandbox, "_START", without)
    with pytest.raises(ValueError, match=r"refuses to confine a process: .*Invalid argument.* not run with less"):
        run_tests(RIGHT, TEST)


def test_a_supervisor_that_cannot_start_is_no_verdict_on_the_code(monkeypatch):
    monkeypatch.setattr(sandbox, "_START", "import no_such_module")
    with pytest.raises(ValueError, match="the supervising process ended: ModuleNotFoundError"):
        run_tests(RIGHT, TEST)


def test_many_threads_at_once_keep_their_results_apart():
    jobs = [SandboxJob(f"def f():\n    return {number}", f"assert f() == {number // 2 * 2}") for number in range(8)]
    assert [result.passed for result in run_many(jobs, workers=4)] == [True, False] * 4
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: run_tests(RIGHT, TEST).passed, range(4)))


def test_one_program_gives_one_result_although_it_is_random():
    code = "import random\ndef f():\n    return random.random(), list({'a', 'b', 'c', 'd', 'e'})"
    first, second = (run_tests(code, "assert f() == 0").reason for _ in range(2))
    assert first == second
    shown = [run_tests(code, "raise KeyError(str(f()))").reason for _ in range(2)]
    assert shown[0] == shown[1]
    assert shown[0].startswith("raised KeyError")


def test_nothing_is_left_when_the_caller_is_killed():
    program = (
        f"import sys; sys.path.insert(0, {SOURCE_ROOT!r})\n"
        "from unisd.tasks.sandbox import run_tests\n"
        "run_tests('while True: pass', 'assert f()', timeout=60)"
    )
    caller = subprocess.Popen([sys.executable, "-c", program])
    until = time.monotonic() + 20
    while len(processes_left(caller.pid)) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    started = len(processes_left(caller.pid))
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    until = time.monotonic() + 5
    while processes_left(caller.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert (started, processes_left(caller.pid)) == (3, [])


def reference_solutions() -> list[SandboxJob]:
    mbpp = [json.loads(line) for line in (DATA / "mbpp" / "sanitized-mbpp.jsonl").read_text("utf-8").splitlines()]
    with gzip.open(DATA / "humaneval" / "HumanEval.jsonl.gz", "rt") as lines:
        human_eval = [json.loads(line) for line in lines]
    jobs = [SandboxJob(row["code"], row["test_list"], "\n".join(row["test_imports"]), 60.0) for row in mbpp]
    for row in human_eval:
        tests = f"{row['test']}\ncheck({row['entry_point']})"
        jobs.append(SandboxJob(row["prompt"] + row["canonical_solution"], tests, row["prompt"], 60.0))
    return jobs


@pytest.mark.skipif(not DATA.exists(), reason="UNISD_DATA_DIR does not name the folder of the data sets")
def test_the_reference_solutions_of_mbpp_and_humaneval_pass_and_empty_ones_do_not():
    jobs = reference_solutions()
    assert len(jobs) == 427 + 164
    jobs = jobs[::EVERY]
    results = run_many(jobs, workers=os.cpu_count() or 1)
    assert [(job.code, result) for job, result in zip(jobs, results, strict=True) if not result.passed] == []
    sample = [SandboxJob("", job.tests, job.setup) for job in jobs[::40]]
    assert not any(result.passed for result in run_many(sample, workers=2))
