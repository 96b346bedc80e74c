"""Commands of this package as steps of a longer measurement: each is run once, and goes on where it was interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from lit_cartridges.errors import CartridgesError
from lit_cartridges.runs.atomic_files import write_atomically


class CommandFailed(CartridgesError, RuntimeError):
    """A command ended with an error, which it has said itself."""


def run_command(made: Path, name: str, *options: str) -> float:
    """``lit-cartridges NAME OPTIONS``, unless it has made ``made``; what it says goes to stderr.

    Args:
        made: a file or folder that the command makes. Beside it, ``.made.json`` says when it was whole: a training leaves
            cartridges before its end.

    Returns:
        Seconds that the command took, now or when it was run.

    Raises:
        CommandFailed: the command did.
    """
    mark = made.with_name(f"{made.name}.made.json")
    if made.exists() and mark.is_file():
        return float(json.loads(mark.read_text())["seconds"])
    made.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    program = [sys.executable, "-m", "lit_cartridges.cli", name, *options]
    if status := subprocess.run(program, stdout=2).returncode:
        raise CommandFailed(f"lit-cartridges {name}, which makes {made}, ended with status {status}")
    seconds = time.perf_counter() - start
    write_atomically(mark, (json.dumps({"options": options, "seconds": seconds}) + "\n").encode())
    return seconds
