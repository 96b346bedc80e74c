"""The commands beside LightningCLI's, one file each; a command is a function from its arguments to nothing."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

TRAINER_COMMANDS = {
    "fit": "Train a cartridge by a recipe.",
    "validate": "Score a trained cartridge on held-out conversations of its recipe.",
    "test": "The same, under Lightning's name for the final score.",
    "predict": "Losses of a trained cartridge, token by token.",
}
_NAMES = (
    "synthesize",
    "evaluate",
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


def load_commands() -> dict[str, Callable[[list[str]], object]]:
    """Name -> function; each imports what it needs when it is called."""
    return {name: import_module(f"lit_cartridges.commands.{name.replace('-', '_')}").main for name in _NAMES}
