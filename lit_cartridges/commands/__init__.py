"""The commands beside LightningCLI's, one file each: NAME.py has ``NAME_command``, whose parameters are the options.

These files import what is heavy inside the function: help, completion and refused options must not wait for torch.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from importlib.resources import files

from lit_cartridges.command_line import TRAINER_COMMANDS

COMMANDS = (
    "estimate",
    "synthesize",
    "evaluate",
    "report",
    "perplexity",
    "passkey",
    "compare-inits",
    "reproduce",
    "leaderboard",
    "router",
    "chat",
    "serve",
    "compose",
    "convert",
    "demo",
    "recipes",
    "slurm",
    "completion",
)


def load_command(name: str) -> Callable[..., object]:
    """The function of one of `COMMANDS`, which is imported now and not before."""
    module = name.replace("-", "_")
    command: Callable[..., object] = getattr(import_module(f"{__name__}.{module}"), f"{module}_command")
    return command


def run(name: str, args: list[str]) -> None:
    """Run the command of this name."""
    if name in TRAINER_COMMANDS:
        from lit_cartridges.cartridge_cli import CartridgeCLI

        CartridgeCLI.run_with([name, *args])
    elif name == "reproduce":
        from lit_cartridges.commands.reproduce import run_reproduce

        run_reproduce(args)
    else:
        from lit_cartridges.command_line.functions import run_function

        run_function(load_command(name), args, prog=f"lit-cartridges {name}")


def summaries() -> dict[str, str]:
    """What each command does, in a line: read off its source, since importing all would take seconds."""
    told = dict(TRAINER_COMMANDS)
    for name in COMMANDS:
        module = name.replace("-", "_")
        body = ast.parse(files(__name__).joinpath(f"{module}.py").read_text()).body
        command = next(x for x in body if isinstance(x, ast.FunctionDef) and x.name == f"{module}_command")
        told[name] = (ast.get_docstring(command) or "").splitlines()[0]
    return told
