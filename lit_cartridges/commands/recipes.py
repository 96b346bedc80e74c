"""``lit-cartridges recipes``."""

from __future__ import annotations

from importlib.resources import files

from lit_cartridges.command_line.parsers import CommandParser
from lit_cartridges.terminal import printable


def main(args: list[str]) -> None:
    """List the installed recipes with what each is for."""
    CommandParser(prog="lit-cartridges recipes", description=main.__doc__).parse_args(args)
    folder = files("lit_cartridges.recipes")
    for recipe in sorted(folder.iterdir(), key=lambda path: path.name):
        if recipe.name.endswith(".yaml"):
            summary = recipe.read_text().splitlines()[0].lstrip("# ")
            print(printable(f"{recipe}\n    {summary}"))
