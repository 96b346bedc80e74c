"""Running what documentation shows: its blocks, in a folder that looks like the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """(language, code) of the fenced blocks, in their order."""
    return [found for found in BLOCK.findall(text) if found[0] in languages]


def with_command(folder: Path) -> Path:
    """``folder`` with a ``bin/lit-cartridges`` that runs this interpreter."""
    command = folder / "bin" / "lit-cartridges"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m lit_cartridges.cli "$@"\n')
    command.chmod(0o755)
    return folder


def run(folder: Path, *command: str, **variables: str) -> str:
    """Run ``command`` in ``folder``, with its ``bin`` in front of the others; returns what it printed."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path} | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
