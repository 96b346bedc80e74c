"""All systems by name. A file of this folder with a subclass of `SystemKind` is all that a further one takes."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TypeVar

from lit_cartridges.errors import SettingError
from lit_cartridges.evals.systems.kind import SystemKind

_PACKAGE = __name__.rpartition(".")[0]

Kind = TypeVar("Kind", bound=SystemKind)


def found_in(folders: Iterable[str], package: str = _PACKAGE) -> dict[str, SystemKind]:
    """The systems that the modules in these folders of ``package`` define, by name."""
    found: dict[str, SystemKind] = {}
    for module_name in sorted(info.name for info in pkgutil.iter_modules(folders)):
        module = import_module(f"{package}.{module_name}")
        for value in vars(module).values():
            if (
                inspect.isclass(value)
                and issubclass(value, SystemKind)
                and value.__module__ == module.__name__
                and hasattr(value, "name")
            ):
                found[value.name] = value()
    return found


SYSTEMS = found_in(import_module(_PACKAGE).__path__)


def names_of(kind: type[Kind], *, with_cartridge: bool = False) -> tuple[str, ...]:
    """The systems of this kind; those that need a cartridge only where there is one."""
    return tuple(
        name
        for name, one in SYSTEMS.items()
        if isinstance(one, kind) and (with_cartridge or not one.needs_cartridge)
    )


def chosen(systems: Sequence[str], kind: type[Kind], *, with_cartridge: bool = False) -> list[Kind]:
    """The systems of these names, at least one.

    Raises:
        SettingError: there is no such system of this kind; it names those there are.
    """
    known = names_of(kind, with_cartridge=with_cartridge)
    if not systems or any(name not in known for name in systems):
        raise SettingError(f"must name some of {', '.join(known)}", systems=list(systems))
    return [one for name in systems if isinstance(one := SYSTEMS[name], kind)]
