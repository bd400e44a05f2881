"""Runs the tests. What the code defines is reached through `Remote`; everything that is compared is the judge's own."""

from __future__ import annotations

import ast
import builtins
import sys
import types
from typing import Any

from unisd.sandbox.wire import Channel, ClosedError, WireError, decode, encode

LONGEST_DETAIL = 300
"""Characters of a reason."""


class TestsError(Exception):
    """The setup or the tests are at fault, whatever the code does."""


class Peer:
    """The judge's end of the conversation."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self.is_lost = False
        self.is_broken = False

    def ask(self, message: dict[str, Any] | None) -> Any:
        """The value of the answer, or the exception that it reports; without a message, of the answer to come."""
        try:
            if message is not None:
                self._channel.send(message)
            reply = self._channel.receive()
            if not isinstance(reply, dict):
                raise WireError("an answer that is not one")
            if "raised" not in reply:
                return decode(reply.get("value"), self._resolve)
            raised = _exception(reply["raised"], reply.get("message"))
        except ClosedError:
            self.is_lost = True
            raise
        except WireError as error:
            self.is_broken = True
            raise ClosedError(str(error)) from None
        raise raised

    def perform(self, operation: str, target: Remote, *arguments: Any, **keywords: Any) -> Any:
        """One operation of the worker's on a value that stayed there."""
        parts = {"on": target, "arguments": arguments, "keywords": keywords}
        try:
            return self.ask({"operation": operation, **{key: encode(value, _refer) for key, value in parts.items()}})
        except (StopIteration, StopAsyncIteration) as error:
            if operation == "next":
                raise
            # From a function it would end a loop of the tests over `map`, and skip what is asserted there.
            raise RuntimeError(f"the code raised {type(error).__name__}") from None

    def _resolve(self, tag: str, payload: Any) -> Any:
        if tag != "remote" or not isinstance(payload, int):
            raise WireError("an answer of an unknown type")
        return Remote(self, payload)


class Remote:
    """A function, class, instance or iterator that stayed with the worker.

    It can be called, read and iterated. It equals only itself: its own `__eq__` is not asked.
    """

    def __init__(self, peer: Peer, number: int):
        self._peer = peer
        self._number = number

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._peer.perform("call", self, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._peer.perform("getattr", self, name)

    def __getitem__(self, key: Any) -> Any:
        return self._peer.perform("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._peer.perform("setitem", self, key, value)

    def __iter__(self) -> Any:
        return self._peer.perform("iter", self)

    def __next__(self) -> Any:
        return self._peer.perform("next", self)

    def __len__(self) -> int:
        return self._peer.perform("len", self)

    def __bool__(self) -> bool:
        return self._peer.perform("bool", self)

    def __str__(self) -> str:
        return self._peer.perform("str", self)

    def __repr__(self) -> str:
        return self._peer.perform("repr", self)


def _refer(value: Any) -> Any:
    if isinstance(value, Remote):
        return ["remote", value._number]
    name = value.__name__ if isinstance(value, types.BuiltinFunctionType) else ""
    if name and vars(builtins).get(name) is value:
        return ["builtin", name]
    raise TestsError(f"the tests hand over a {type(value).__name__}, which cannot enter the sandbox")


def _exception(names: Any, message: Any) -> Exception:
    """The nearest built-in exception, so that a test may expect it; what is no Exception becomes a RuntimeError."""
    if not isinstance(names, list) or not isinstance(message, str) or not all(isinstance(name, str) for name in names):
        raise WireError("an exception that is not one")
    for name in names:
        kind = vars(builtins).get(name)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(message) if name == names[0] else kind(f"{names[0]}: {message}")
            except TypeError:  # UnicodeDecodeError and its like want more than a message
                break
    return RuntimeError(f"{names[0] if names else ''}: {message}")


def judge(setup: str, tests: list[str], channel: Channel) -> dict[str, Any]:
    """The verdict: `passed` and `reason`, `lost` if the worker went away, or `fault` if the tests are wrong."""
    peer = Peer(channel)
    try:
        namespace: dict[str, Any] = {"__name__": "tests"}
        wanted = _run_setup(setup, tests, namespace)
        try:
            peer.ask(None)
            _bind(peer, wanted, namespace)
            is_used = any(name in namespace for name in wanted)
            for number, test in enumerate(tests):
                exec(compile(test, f"<test {number}>", "exec", dont_inherit=True), namespace)
        except TestsError:
            raise
        except BaseException as error:  # noqa: BLE001 - a test fails by whatever it raises
            return _verdict(_failure(error, tests), lost=peer.is_lost)
    except TestsError as error:
        return {"fault": _printable(str(error))}
    if not is_used:
        return _verdict("protocol: the tests use nothing that the code defines")
    if peer.is_lost or peer.is_broken:
        return _verdict("protocol: the tests went on without the code", lost=peer.is_lost)
    return _verdict("passed", passed=True)


def _verdict(reason: str, *, passed: bool = False, lost: bool = False) -> dict[str, Any]:
    return {"passed": passed, "reason": _printable(reason), "lost": lost}


def _run_setup(setup: str, tests: list[str], namespace: dict[str, Any]) -> list[str]:
    """Define what the setup defines and the modules that the tests read; the names that the code is to supply."""
    try:
        tree = ast.parse(setup)
        tree.body = [node for node in tree.body if not _is_declaration(node)]
        nodes = [node for test in tests for node in ast.walk(ast.parse(test))]
        exec(compile(tree, "<setup>", "exec", dont_inherit=True), namespace)
    except Exception as error:  # noqa: BLE001 - the setup is the data set's, and may raise anything
        raise TestsError(f"the setup or the tests do not run: {type(error).__name__}: {error}") from None
    for name in modules_read(tests):
        # The judge's own one, also where only the code imports it.
        if name in sys.modules:
            namespace.setdefault(name, sys.modules[name])
    read = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    free = [name for name in dict.fromkeys(read) if name not in namespace]
    wanted = [name for name in free if name not in vars(builtins)]
    if not wanted:
        # A solution named `sum`: the tests call nothing else, so the first name is what they test.
        wanted = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)][:1]
    return wanted


def modules_read(tests: list[str]) -> list[str]:
    """Modules of the standard library that the tests read from, such as `math` in `math.isclose(...)`."""
    try:
        nodes = [node for test in tests for node in ast.walk(ast.parse(test))]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    owners = [node.value.id for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    return [name for name in dict.fromkeys(owners) if name in sys.stdlib_module_names]


def _is_declaration(node: ast.stmt) -> bool:
    """Whether a function has a docstring and imports at most: the code, not the setup, is to supply it."""
    return isinstance(node, ast.FunctionDef) and all(
        isinstance(part, (ast.Import, ast.ImportFrom, ast.Pass))
        or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in node.body
    )


def _bind(peer: Peer, wanted: list[str], namespace: dict[str, Any]) -> None:
    supplied = peer.ask({"names": wanted})
    for name, value in supplied.items() if isinstance(supplied, dict) else ():
        if name in wanted:
            namespace[name] = value


def _failure(error: BaseException, tests: list[str]) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, ClosedError):
        return f"protocol: {error}"
    if isinstance(error, ImportError) and _last_file(error).startswith("<test "):
        raise TestsError(f"the tests import what the sandbox does not have: {error}")
    if not isinstance(error, AssertionError):
        return f"raised {type(error).__name__}: {error}"
    line = ""
    trace = error.__traceback__
    while trace:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith("<test "):
            line = tests[int(name[6:-1])].splitlines()[trace.tb_lineno - 1].strip()
        trace = trace.tb_next
    return f"assertion failed: {line or error}"


def _last_file(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename if trace else ""


def _printable(text: str) -> str:
    cut = text if len(text) <= LONGEST_DETAIL else text[: LONGEST_DETAIL - 3] + "..."
    return "".join(character if character.isprintable() else " " for character in cut)
