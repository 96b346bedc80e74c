"""Help that is rendered ahead, for commands whose options are classes that need torch and Lightning: seconds to import.

``help/NAME.txt`` holds what the parser of NAME prints, below the versions of what its text comes from. Where others are
installed the parser prints its help itself. ``make help-texts`` writes the files, and a test compares them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from io import StringIO
from pathlib import Path

from lit_cartridges.command_line import TRAINER_COMMANDS
from lit_cartridges.commands import run

RENDERED = (*TRAINER_COMMANDS, "evaluate", "perplexity", "passkey")
# Their docstrings, signatures and classes stand in the text, or they decide how it is set.
_SOURCES = ("docstring-parser", "jsonargparse", "lightning", "torch", "transformers")
# An optimizer that nobody can choose, listed where DeepSpeed is installed.
_WRAPPER = "DeepSpeedOptimizerWrapper"


def rendered_help(name: str, args: Sequence[str]) -> str | None:
    """What ``lit-cartridges NAME --help`` prints, if that is known here; beside other options the parser may say more."""
    if [*args] not in (["-h"], ["--help"]) or not _place(name).is_file():
        return None
    first, _, text = _place(name).read_text(encoding="utf-8").partition("\n")
    return text if first == _versions() else None


def rendered(name: str) -> str:
    """A whole file, from the parser."""
    printed = StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        run(name, ["--help"])
    text = "".join(line for line in printed.getvalue().splitlines(keepends=True) if _WRAPPER not in line)
    return f"{_versions()}\n{text}"


def _place(name: str) -> Path:
    return Path(str(files(__package__) / "help" / f"{name}.txt"))


def _versions() -> str:
    told = [f"Python {sys.version_info[0]}.{sys.version_info[1]}"]
    for name in _SOURCES:
        with suppress(PackageNotFoundError):
            told.append(f"{name} {version(name).partition('+')[0]}")  # torch's +cpu and +cu130 are one text
    return "# " + ", ".join(told)


def main(names: Sequence[str]) -> None:
    """Write the files of these commands, or of all."""
    for name in names or RENDERED:
        _place(name).parent.mkdir(exist_ok=True)
        _place(name).write_text(rendered(name), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
