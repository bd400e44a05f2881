"""The rules of the style guide that a syntax tree can decide. Each returns what breaks it: "line 12: what it is"."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_POSITIONAL = 7

OPTIONAL_PACKAGES = {
    "bm25s",
    "deepspeed",
    "gguf",
    "liger_kernel",
    "lm_eval",
    "matplotlib",
    "sentence_transformers",
    "triton",
    "trl",
    "vllm",
}
COMPONENT_IMPORTS = ("torch", "jaxtyping", "unisd.types", "unisd.objective")

_HOSTS = r"pypi[.]org|pythonhosted[.]org|npmjs[.](?:org|com)|deb[.]debian[.]org|download[.]pytorch[.]org"
_PIP_SOURCES = r"index[-_]url|find[-_]links|trusted[-_]host"
_MACHINE_PATHS = r"(?<![\w.~$}-])/(?:work|tmp|root|home|opt|mnt|srv|Users)\b"
_PRIVATE = re.compile(f"{_HOSTS}|{_PIP_SOURCES}|{_MACHINE_PATHS}", re.IGNORECASE)


def long_file(source: str) -> list[str]:
    """Files of more than 400 lines."""
    num_lines = len(source.splitlines())
    return [f"{num_lines} lines"] if num_lines > MAX_FILE_LINES else []


def long_functions(source: str) -> list[str]:
    """Functions of more than 60 lines, decorators not counted."""
    lengths = [(node, (node.end_lineno or node.lineno) - node.lineno + 1) for node in _functions(ast.parse(source))]
    return [
        f"line {node.lineno}: {node.name} has {length} lines" for node, length in lengths if length > MAX_FUNCTION_LINES
    ]


def many_positional_arguments(source: str) -> list[str]:
    """Functions with more than seven arguments that may be given by position, `self` and `cls` not counted.

    Triton's own are left out: it passes every pointer, stride and constant by position.
    """
    found = []
    for node in _functions(ast.parse(source)):
        if any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list):
            continue
        names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
        num_positional = len([name for name in names if name not in ("self", "cls")])
        if num_positional > MAX_POSITIONAL:
            found.append(f"line {node.lineno}: {node.name} takes {num_positional} positional arguments")
    return found


def waiting_calls(source: str) -> list[str]:
    """Calls that wait for the device or print: `.item()`, `.cpu()`, `.tolist()`, `.numpy()`, `.to("cpu")`, `print`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        is_print = isinstance(function, ast.Name) and function.id == "print"
        is_wait = isinstance(function, ast.Attribute) and function.attr in ("item", "cpu", "tolist", "numpy")
        is_move = (
            isinstance(function, ast.Attribute) and function.attr == "to" and "'cpu'" in map(ast.unparse, node.args)
        )
        if is_print or is_wait or is_move:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def defaulted_getattr(source: str) -> list[str]:
    """`getattr` with a default: the name of a field of our own may then be misspelt without anyone noticing."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in calls
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) == 3
    ]


def work_at_import(source: str) -> list[str]:
    """Module-level calls whose result nobody keeps, and module-level `with` and `while`."""
    return [
        f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}"
        for node in ast.parse(source).body
        if isinstance(node, (ast.With, ast.While)) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    ]


def optional_imports_at_top(source: str) -> list[str]:
    """Imports of optional packages that run when the module is imported."""
    return [
        f"line {line}: {name}" for line, name in imports(source, at_top=True) if name.split(".")[0] in OPTIONAL_PACKAGES
    ]


def foreign_component_imports(source: str) -> list[str]:
    """Imports of a component other than torch, jaxtyping, `unisd.types`, its siblings and the standard library."""
    return [
        f"line {line}: {name}"
        for line, name in imports(source)
        if name.split(".")[0] not in sys.stdlib_module_names and not stands_in(name, COMPONENT_IMPORTS)
    ]


def crowded_package_init(source: str) -> list[str]:
    """What a package `__init__` holds beside its docstring, its imports and its registry dicts."""
    return [
        f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}"
        for node in ast.parse(source).body
        if not isinstance(node, (ast.Import, ast.ImportFrom)) and not _is_text(node) and _registry(node) is None
    ]


def unsorted_registries(source: str) -> list[str]:
    """Registry dicts whose keys do not come in alphabetical order."""
    registries = filter(None, map(_registry, ast.parse(source).body))
    keys = {name: [ast.unparse(key) for key in value.keys if key] for name, value in registries}
    return [f"{name}: {names}" for name, names in keys.items() if names != sorted(names)]


def undocumented_knobs(source: str) -> list[str]:
    """Public fields of dataclasses without a docstring under them; `ClassVar`s are no knobs."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef) or not any(
            "dataclass" in ast.unparse(item) for item in node.decorator_list
        ):
            continue
        for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
            if not isinstance(statement, ast.AnnAssign) or "ClassVar" in ast.unparse(statement.annotation):
                continue
            field = ast.unparse(statement.target)
            if not field.startswith("_") and not (following and _is_text(following)):
                found.append(f"line {statement.lineno}: {node.name}.{field}")
    return found


def undocumented_methods(source: str) -> list[str]:
    """Public methods without a docstring; one that a class of the same file documents may be overridden without."""
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    methods = [(owner, node) for owner in classes for node in owner.body if isinstance(node, ast.FunctionDef)]
    documented = {method.name for _, method in methods if ast.get_docstring(method)}
    return [
        f"line {method.lineno}: {owner.name}.{method.name}"
        for owner, method in methods
        if not owner.name.startswith("_") and not method.name.startswith("_") and method.name not in documented
    ]


def private_places(text: str) -> list[str]:
    """Package registries and paths of one machine."""
    lines = enumerate(text.splitlines(), start=1)
    return [f"line {number}: {match.group()}" for number, line in lines for match in [_PRIVATE.search(line)] if match]


def registry_names(source: str) -> list[str]:
    """The names of the registry dicts of a package `__init__`."""
    return [name for name, _ in filter(None, map(_registry, ast.parse(source).body))]


def imports(source: str, *, at_top: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of each import; `at_top` leaves out functions and `if TYPE_CHECKING`."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        is_for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if not (at_top and (is_function or is_for_types)):
            pending.extend(ast.iter_child_nodes(node))


def stands_in(name: str, packages: tuple[str, ...]) -> bool:
    """Whether `name` is one of the packages or something inside it."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _registry(node: ast.stmt) -> tuple[str, ast.Dict] | None:
    if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict):
        return ast.unparse(node.target), node.value
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
        return ast.unparse(node.targets[0]), node.value
    return None
