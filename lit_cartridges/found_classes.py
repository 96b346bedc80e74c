"""The classes of one kind that the files of a package define: a new one needs its own file, and no list of files."""

from __future__ import annotations

import sys
from importlib import import_module
from inspect import isabstract, isclass
from pkgutil import iter_modules
from typing import TypeVar

T = TypeVar("T")


def found_classes(package: str, base: type[T]) -> dict[str, type[T]]:
    """Imports the package's modules, and returns by name what they define below ``base``, in the order of their files.

    Abstract classes, and those whose names begin with an underscore, are not among them.
    """
    found: dict[str, type[T]] = {}
    for file in iter_modules(sys.modules[package].__path__):
        module = import_module(f"{package}.{file.name}")
        for name, value in vars(module).items():
            own = isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
            if own and issubclass(value, base) and not isabstract(value):
                found[name] = value
    return found
