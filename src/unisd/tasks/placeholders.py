"""Templates of the YAML: `{name}` stands for a value, `{{` and `}}` for braces, nothing else."""

from __future__ import annotations

import string


def placeholders(where: str, template: str) -> set[str]:
    """The names in the template; `where` is the option that an error names."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"{where}: {template!r} is not a template ({error}). Write {{{{ and }}}} for braces that are text."
        ) from error
    names = set()
    for _, name, format_spec, conversion in parts:
        if name is None:
            continue
        if format_spec or conversion or not name or name.isdigit() or set(name) & set(".[]"):
            raise ValueError(
                f"{where}: placeholders must be plain names such as {{question}}, got {template!r}. "
                "Write {{ and }} for braces that are text."
            )
        names.add(name)
    return names
