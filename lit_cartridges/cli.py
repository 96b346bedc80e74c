"""The ``lit-cartridges`` command.

``fit``, ``validate``, ``test`` and ``predict`` are LightningCLI's, over `LitCartridge` and `SelfStudyDataModule`;
the others are functions of `lit_cartridges.commands`, whose arguments become options.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from lit_cartridges.commands import TRAINER_COMMANDS, load_commands
from lit_cartridges.terminal import guard_terminal, printable


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line ``args`` (``sys.argv`` by default); ends with status 2 on bad settings."""
    argv = list(sys.argv[1:] if args is None else args)
    commands = load_commands()
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview(commands))
        return
    if argv[0] == "--version":
        from lit_cartridges import __version__

        print(__version__)
        return
    if argv[0] not in (*TRAINER_COMMANDS, *commands):
        print(f"lit-cartridges: there is no command {argv[0]!r}\n\n{_overview(commands)}", file=sys.stderr)
        raise SystemExit(2)
    _quiet()
    try:
        if argv[0] in TRAINER_COMMANDS:
            from lit_cartridges.commands.trainer_cli import CartridgeCLI

            _quiet()  # once more: Lightning, imported just now, has turned its hints on
            CartridgeCLI.run_with(argv)
        else:
            commands[argv[0]](argv[1:])
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        # Settings that cannot work explain themselves; a traceback would hide the sentence. LIT_CARTRIDGES_DEBUG=1 shows it.
        if "LIT_CARTRIDGES_DEBUG" in os.environ:
            raise
        print(printable(f"lit-cartridges {argv[0]}: {error}"), file=sys.stderr)
        raise SystemExit(2) from None


def _overview(commands: dict[str, Callable[[list[str]], Any]]) -> str:
    lines = ["usage: lit-cartridges COMMAND [options]     (COMMAND --help explains its options)", ""]
    summaries = {
        **TRAINER_COMMANDS,
        **{name: (c.__doc__ or "").splitlines()[0] for name, c in commands.items()},
    }
    lines += [f"  {name:<15}{summary}" for name, summary in summaries.items()]
    return "\n".join([*lines, "", "recipes: lit-cartridges recipes lists those that are installed"])


def _quiet() -> None:
    """Silence what a user can do nothing about, and say the rest once, plainly."""
    for hint in (
        ".*does not have many workers.*",
        ".*LightningCLI's args parameter is intended.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*`srun` command is available on your system but is not used.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*Found .* module.s. in eval mode.*",
    ):
        warnings.filterwarnings("ignore", message=hint)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    guard_terminal()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
