"""Objects named by import path, `pkg.module:name`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from unisd.config.errors import ConfigError


def import_object(path: str, *, where: str) -> object:
    """What `pkg.module:name` names; the working directory is searched as well."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"{where}: {path!r} is not an import path. Write pkg.module:Class.")
    # At the end, and for good: an installed package keeps its name, and the module may import its neighbours later.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(
            f"{where}: {module_name!r} of {path!r} cannot be imported ({error}). "
            "Start from the folder of the file, or install the package."
        ) from error
    if name not in vars(module):
        public = ", ".join(sorted(public for public in vars(module) if not public.startswith("_")))
        raise ConfigError(f"{where}: module {module_name!r} has no {name!r}. It has: {public}.")
    return vars(module)[name]
