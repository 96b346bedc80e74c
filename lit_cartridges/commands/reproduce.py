"""``lit-cartridges reproduce NAME``: a table of a paper. Each table adds its own options to those of the command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lit_cartridges.command_line.functions import run_function
from lit_cartridges.command_line.parser_errors import choices
from lit_cartridges.errors import CartridgesError
from lit_cartridges.settings import DeviceName, WriteFolder, checked
from lit_cartridges.settings.checked import type_hints
from lit_cartridges.terminal import printable


@checked
def reproduce_command(
    name: str | None = None,
    *,
    folder: WriteFolder | None = None,
    quick: bool = False,
    device: DeviceName = "auto",
) -> None:
    """Measure a table of a paper and print it beside the paper's own; without NAME, list the tables.

    What is measured is kept, so that the same command goes on where it was interrupted. NAME --help has the table's options.

    Args:
        name: the table's.
        folder: for all that is made; runs/reproduce/NAME by default, NAME_quick with --quick.
        quick: small sizes on a small model: minutes on two CPU cores. Options that are given count before them.
        device: "auto", "cpu", "cuda", "cuda:1", …
    """
    from lit_cartridges.reproductions.tables import TABLES

    if name is not None:
        raise CartridgesError(f"there is no table {name!r}; {choices(name, list(TABLES))}")
    for known, kind in TABLES.items():
        print(printable(f"{known}\n    {(inspect.getdoc(kind) or '').splitlines()[0]} {kind.paper}"))


def run_reproduce(args: Sequence[str]) -> None:
    """The command line: with the options of the table that it names."""
    if args and not args[0].startswith("-"):
        from lit_cartridges.reproductions.tables import TABLES

        if (kind := TABLES.get(args[0])) is not None:
            function = table_command(kind, quick="--quick" in args)
            run_function(function, args[1:], prog=f"lit-cartridges reproduce {args[0]}")
            return
    run_function(reproduce_command, args, prog="lit-cartridges reproduce")


def table_command(kind: type[Any], *, quick: bool = False) -> Callable[..., None]:
    """A function whose parameters are those of the table and those of the command.

    Args:
        kind: a subclass of `Reproduction`; a type that this file knew would be imported for the command's help.
        quick: the table's have their --quick defaults.
    """
    from lit_cartridges.reproductions.page import text_page
    from lit_cartridges.reproductions.reproduction import parameters_of
    from lit_cartridges.reproductions.run import reproduce

    def run(
        *, folder: Path | None = None, quick: bool = False, device: str = "auto", **settings: Any
    ) -> None:
        place = folder or Path("runs/reproduce") / (kind.name + ("_quick" if quick else ""))
        table = kind(**settings)
        result = reproduce(table, place, quick=quick, device=device)
        print(text_page(result, form=table.form, notes=table.notes))
        told = f"{place}/table.md has this with the settings, plot.svg shows it, result.json holds it."
        print(printable(f"\n{told}"))

    known = parameters_of(kind)
    settings = [
        one.replace(default=kind.quick[name]) if quick and name in kind.quick else one
        for name, (one, _) in known.items()
    ]
    own = [one for name, one in inspect.signature(reproduce_command).parameters.items() if name != "name"]
    hints = type_hints(inspect.unwrap(reproduce_command)) | {name: hint for name, (_, hint) in known.items()}
    run.__annotations__ = {one.name: hints[one.name] for one in (*settings, *own)}
    run.__signature__ = inspect.Signature([*settings, *own])  # type: ignore[attr-defined]
    documented = [
        inspect.getdoc(one) or "" for one in (*kind.__mro__, reproduce_command) if one is not object
    ]
    arguments = (_arguments(text) for text in documented)
    run.__doc__ = f"{documented[0].partition('Args:')[0].strip()}\n\nArgs:\n" + "\n".join(
        filter(None, arguments)
    )
    return checked(run)


def _arguments(text: str) -> str:
    """What a docstring says of its parameters."""
    return text.partition("Args:\n")[2].partition("\n\n")[0].rstrip()
