"""``lit-cartridges recipes``."""

from __future__ import annotations

from importlib.resources import files

from lit_cartridges.terminal import printable


def recipes_command() -> None:
    """List the installed recipes with what each is for."""
    folder = files("lit_cartridges.recipes")
    for recipe in sorted(folder.iterdir(), key=lambda path: path.name):
        if recipe.name.endswith(".yaml"):
            summary = recipe.read_text().splitlines()[0].lstrip("# ")
            print(printable(f"{recipe}\n    {summary}"))
