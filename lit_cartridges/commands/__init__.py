"""The commands beside LightningCLI's, one file each; a command is a function from its arguments to nothing."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from importlib.resources import files

TRAINER_COMMANDS = {
    "fit": "Train a cartridge by a recipe.",
    "validate": "Score a trained cartridge on held-out conversations of its recipe.",
    "test": "The same, under Lightning's name for the final score.",
    "predict": "Losses of a trained cartridge, token by token.",
}
COMMANDS = (
    "estimate",
    "synthesize",
    "evaluate",
    "report",
    "perplexity",
    "passkey",
    "compare-inits",
    "chat",
    "compose",
    "convert",
    "demo",
    "recipes",
    "slurm",
)


def load_command(name: str) -> Callable[[list[str]], object]:
    """The function of one of `COMMANDS`, which is imported now and not before."""
    command: Callable[[list[str]], object] = import_module(f"{__name__}.{name.replace('-', '_')}").main
    return command


def summaries() -> dict[str, str]:
    """What each command does, in a line: read off its source, since importing all would take seconds."""
    told = dict(TRAINER_COMMANDS)
    for name in COMMANDS:
        source = files(__name__).joinpath(f"{name.replace('-', '_')}.py").read_text()
        body = ast.parse(source).body
        main = next(x for x in body if isinstance(x, ast.FunctionDef) and x.name == "main")
        told[name] = (ast.get_docstring(main) or "").splitlines()[0]
    return told
