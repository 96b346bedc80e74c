"""All systems by name. A file of this folder with a subclass of `SystemKind` is all that a further one takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from lit_cartridges.errors import SettingError
from lit_cartridges.evals.systems.kind import AskedKind, StreamedKind, SystemKind
from lit_cartridges.found_classes import found_classes

_PACKAGE = __name__.rpartition(".")[0]

Kind = TypeVar("Kind", bound=SystemKind)


def found_systems() -> dict[str, SystemKind]:
    """What the files of this folder define, by name."""
    kinds = found_classes(_PACKAGE, AskedKind) | found_classes(_PACKAGE, StreamedKind)
    return {kind.name: kind() for kind in sorted(kinds.values(), key=lambda kind: kind.name)}


SYSTEMS = found_systems()


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
