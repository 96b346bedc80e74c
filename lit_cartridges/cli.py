"""The ``lit-cartridges`` command.

``fit``, ``validate``, ``test`` and ``predict`` are LightningCLI's, over `LitCartridge` and `SelfStudyDataModule`;
the others are functions of `lit_cartridges.commands`, whose parameters are the options.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence

from lit_cartridges.command_line import TRAINER_COMMANDS
from lit_cartridges.command_line.ending import DEBUG, command, one_line
from lit_cartridges.command_line.parser_errors import choices
from lit_cartridges.commands import COMMANDS, run, summaries
from lit_cartridges.commands.rendered import rendered_help
from lit_cartridges.terminal import guard_terminal


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line ``args`` (``sys.argv`` by default); ends with status 2 on bad settings."""
    argv = list(sys.argv[1:] if args is None else args)
    name = next((argument for argument in argv if argument != DEBUG), "--help")
    if name in ("-h", "--help"):
        print(_overview())
        return
    if name == "--version":
        from lit_cartridges import __version__

        print(__version__)
        return
    if name not in (known := (*TRAINER_COMMANDS, *COMMANDS)):
        told = f"lit-cartridges: there is no command {name!r}; {choices(name, known)}"
        print(one_line(told), file=sys.stderr)
        raise SystemExit(2)
    argv.remove(name)
    _quiet()
    with command(f"lit-cartridges {name}", argv) as left:
        if (text := rendered_help(name, left)) is not None:
            print(text, end="")
            return
        if name in TRAINER_COMMANDS:
            import lit_cartridges.cartridge_cli  # noqa: F401

            _quiet()  # once more: Lightning, imported just now, has turned its hints on
        run(name, left)


def _overview() -> str:
    lines = [
        "usage: lit-cartridges COMMAND [options]     (COMMAND --help explains its options, --debug shows tracebacks)",
        "",
        *(f"  {name:<15}{summary}" for name, summary in summaries().items()),
        "",
        "recipes: lit-cartridges recipes lists those that are installed",
    ]
    return "\n".join(lines)


def _quiet() -> None:
    """Silence what a user can do nothing about, and say the rest once, plainly."""
    for hint in (
        ".*does not have many workers.*",
        ".*LightningCLI's args parameter is intended.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*`srun` command is available on your system but is not used.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*Found .* module.s. in eval mode.*",
        ".*your dataloader is not resumable.*",  # the data module is
        ".*You requested to overfit but enabled.*",  # the stream has no shuffling of Lightning's
        ".*using the WeightAveraging callback with a model that overrides.*",  # sharded ones are refused
    ):
        warnings.filterwarnings("ignore", message=hint)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    guard_terminal()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it tells of every flaw of a PDF that it could mend


if __name__ == "__main__":
    main()
