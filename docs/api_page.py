"""Writes docs/api.md from signatures and docstrings: `python docs/api_page.py`, or `make api`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("api.md")
# The first one's classes with their methods; of the others the names alone.
PACKAGES = (
    "",
    "models",
    "init",
    "losses",
    "teachers",
    "corpora",
    "evals",
    "formats",
    "callbacks",
    "cascade",
    "attention",
)
OPENING = """# API

Public names with their parameters and the first paragraph of their docstrings, written by `make api`. Arguments, shapes and
errors are in the docstrings: `help(lit_cartridges.Cartridge)`.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([OPENING, *(line for name in PACKAGES for line in _package(name))])


def _package(name: str) -> Iterator[str]:
    full = f"lit_cartridges.{name}".rstrip(".")
    module = import_module(full)
    yield f"## {full}\n\n{_first_paragraph(module)}\n"
    names = sorted(getattr(module, "__all__", None) or _own(module))
    for public in names:
        yield from _entry(public, getattr(module, public), methods=not name)
    yield ""


def _own(module: Any) -> list[str]:
    """What a module without ``__all__`` defines itself."""
    return [
        n
        for n, x in vars(module).items()
        if not n.startswith("_") and getattr(x, "__module__", "") == module.__name__
    ]


def _entry(name: str, value: Any, *, methods: bool) -> Iterator[str]:
    if not callable(value) or not hasattr(value, "__module__") or getattr(value, "__origin__", None):
        return  # constants and aliases explain themselves where they are used
    yield f"- **`{_call(name, value)}`**: {_first_paragraph(value)}"
    for method, found in vars(value).items() if methods and inspect.isclass(value) else ():
        function = getattr(found, "__func__", found)
        if method.startswith("_") or not inspect.isfunction(function) or not _first_paragraph(function):
            continue
        if not _is_hook(value, method):
            yield f"  - `{_call(method, function)}`: {_first_paragraph(function)}"


def _is_hook(owner: type, method: str) -> bool:
    """Whether another package's class already has the method: Lightning calls it, not the user."""
    return any(
        method in vars(base) for base in owner.__mro__[1:] if not base.__module__.startswith("lit_cartridges")
    )


def _call(name: str, value: Any) -> str:
    """The call with its parameters' names and defaults."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    kept = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_default(parameter.default))
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    return f"{name}{signature.replace(parameters=kept, return_annotation=inspect.Signature.empty)}"


class _Dots:
    """Stands for a default that would take too long to write."""

    def __repr__(self) -> str:
        return "…"


def _default(value: Any) -> Any:
    return value if value is inspect.Parameter.empty or len(repr(value)) <= 40 else _Dots()


def _first_paragraph(value: Any) -> str:
    text = (inspect.getdoc(value) or "").split("\n\n")[0]
    return " ".join(text.replace("``", "`").split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
