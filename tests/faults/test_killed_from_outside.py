"""SIGKILL from outside, as a machine dies: at any moment, every file under its final name is whole, and the same command
goes on to the bits of a run that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.command import Command
from tests.faults.figures import Figures
from tests.faults.run_files import check_readable, check_same_end, leftovers

# Where the temporary file of a write is, and what it is called in the figures.
WRITES = {
    "a checkpoint's write": "checkpoints/.last.ckpt",
    "a recording's write": "recording/.part-",
    "a cartridge's write": "cartridge/.cartridge.safetensors",
}
RANDOM = "a random moment"
FROM_THE_START = "a random moment, imports included"


@pytest.mark.faults
def test_killed_at_random_moments(start, undisturbed, tmp_path, long):
    draw, figures = random.Random(0), Figures("SIGKILL", long=long)
    alone = start(tmp_path / "alone")
    alone.until(begun(alone, tmp_path / "alone"))
    since = time.monotonic()
    assert alone.wait() == 0, alone.told()
    duration_s = time.monotonic() - since
    check_same_end(tmp_path / "alone", undisturbed)

    number, attempts, kinds = 0, 0, kinds_of_kill(draw)
    while figures.moments.total() < (50 if long else 4):
        folder, number = tmp_path / f"run-{number}", number + 1
        while True:
            attempts += 1
            anew = long and attempts % 2 == 0
            fit = start(folder, forked=not anew)
            if not kill(fit, folder, next(kinds), duration_s, draw):
                break
            figures.moments[where(fit, folder)] += 1
            figures.outcomes["of them of an interpreter that had started anew"] += anew
            figures.outcomes["files read back whole"] += check_readable(folder)
            figures.outcomes["half-written files left behind, swept away"] += len(leftovers(folder))
        assert fit.wait() == 0, fit.told()
        check_same_end(folder, undisturbed)
        figures.outcomes["runs that ended on the same bits"] += 1
    if long:  # the backward pass of so small a model takes milliseconds; test_killed_runs meets it for sure
        assert {*WRITES, "generation"} < set(figures.moments)
    figures.save("1-killed")


def kinds_of_kill(draw):
    """First each kind of write once, then at random."""
    yield from WRITES
    while True:
        yield draw.choices([RANDOM, FROM_THE_START, *WRITES], weights=[12, 1, 1, 1, 1])[0]


def kill(fit: Command, folder: Path, kind: str, duration_s: float, draw: random.Random) -> bool:
    """Whether the command was still going on when it was killed."""
    if kind in WRITES:
        for _ in range(draw.randint(1, 3)):
            if not (fit.until(writes(fit, folder, WRITES[kind]), every_s=0)):
                return False
            if not fit.until(lambda: draw.random() < 0.5, every_s=0):
                return False
        fit.send(signal.SIGKILL)
        return fit.wait() == 128 + signal.SIGKILL
    if kind == RANDOM:
        fit.until(begun(fit, folder))
    end = time.monotonic() + draw.uniform(0, duration_s)
    fit.until(lambda: time.monotonic() > end, every_s=0.001)
    return fit.kill() is not None


def begun(fit: Command, folder: Path) -> Callable[[], bool]:
    """Whether the command holds its folder."""

    def holds() -> bool:
        try:
            return bool(json.loads((folder / ".lock").read_text())["process"] == fit.pid)
        except (OSError, ValueError):
            return False

    return holds


def writes(fit: Command, folder: Path, beginning: str) -> Callable[[], bool]:
    """Whether there is a temporary file of that beginning."""
    place, name = (folder / beginning).parent, Path(beginning).name
    end = f".{fit.pid}.tmp"

    def there() -> bool:
        try:
            return any(n.startswith(name) and n.endswith(end) for n in os.listdir(place))
        except OSError:
            return False

    return there


def where(fit: Command, folder: Path) -> str:
    """What the dead process has left half-written, or else what its stack said."""
    for place, beginning in WRITES.items():
        if writes(fit, folder, beginning)():
            return place
    return fit._where()
