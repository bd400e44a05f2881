"""Runs model-written code and answers the judge's requests: call this, read that. Trusted with nothing."""

from __future__ import annotations

import operator
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from unisd.sandbox.wire import Channel, Tree, WireError, decode, encode

OPERATIONS: dict[str, Callable[..., Any]] = {
    "bool": operator.truth,
    "call": lambda function, *arguments, **keywords: function(*arguments, **keywords),
    "getattr": getattr,
    "getitem": operator.getitem,
    "iter": iter,
    "len": len,
    "next": next,
    "repr": repr,
    "setitem": operator.setitem,
    "str": str,
}
"""What the judge may ask of a value that stays here. Nothing that compares or adds: it would show what is expected."""


class _Values:
    """The values that stayed here, by the number under which the judge knows them."""

    def __init__(self) -> None:
        self._values: list[Any] = []

    def refer(self, value: Any) -> Tree:
        self._values.append(value)
        return ["remote", len(self._values) - 1]

    def resolve(self, tag: str, payload: Any) -> Any:
        if tag == "builtin":
            return vars(sys.modules["builtins"])[payload]
        return self._values[payload]


def serve(code: Sequence[str], channel: Channel) -> None:
    """Run the pieces as one module named `solution`, say how that went, then answer until the judge has gone."""
    os.environ.clear()
    module = types.ModuleType("solution")
    # Dataclasses and enumerations look their module up.
    sys.modules["solution"] = module
    values = _Values()
    _answer(channel, values, lambda: _run(code, vars(module)))
    while True:
        request = channel.receive()
        if "names" in request:
            _answer(channel, values, lambda names=request["names"]: _defined(module, names))
        else:
            _answer(channel, values, lambda request=request: _perform(request, values))


def _run(code: Sequence[str], namespace: dict[str, Any]) -> None:
    for piece in code:
        # Without the future import above, which would leave annotations unevaluated and forgive a missing import.
        exec(compile(piece, "<code>", "exec", dont_inherit=True), namespace)


def _answer(channel: Channel, values: _Values, action: Callable[[], Any]) -> None:
    try:
        reply = {"value": encode(action(), values.refer)}
        channel.send(reply)
    except WireError as error:
        channel.send({"raised": ["ValueError"], "message": f"the result cannot leave the sandbox: {error}"})
    except BaseException as error:  # noqa: BLE001 - whatever the code raises is an answer, SystemExit too
        channel.send({"raised": [base.__name__ for base in type(error).__mro__], "message": str(error)[:1000]})


def _defined(module: types.ModuleType, names: list[str]) -> dict[str, Any]:
    found = {name: vars(module)[name] for name in names if name in vars(module)}
    # The judge has modules of its own.
    return {name: value for name, value in found.items() if not isinstance(value, types.ModuleType)}


def _perform(request: dict[str, Any], values: _Values) -> Any:
    target, arguments, keywords = (decode(request[part], values.resolve) for part in ("on", "arguments", "keywords"))
    return OPERATIONS[request["operation"]](target, *arguments, **keywords)
