"""A disk that fills up stops a run in words; once there is room, the same command goes on."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from tests.faults.figures import Figures
from tests.faults.run_files import check_readable, check_same_end


def fill(disk: Path, *, leave_bytes: int) -> Path:
    """A file that takes all but so many bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free - leave_bytes))
    return ballast


@pytest.mark.faults
def test_a_full_disk(start, undisturbed, small_disk, tmp_path, long):
    """With too little room at the start, and again with a little more: in any write that happens to be the first."""
    draw, figures, number = random.Random(0), Figures("a full disk", long=long), 0
    needed = sum(path.stat().st_size + 4096 for path in undisturbed.rglob("*") if path.is_file())
    folder = small_disk / "run"
    while figures.moments.total() < (20 if long else 2):
        while True:
            ballast = fill(small_disk, leave_bytes=draw.randrange(0, needed // (2 if folder.exists() else 1)))
            number += 1
            fit = start(folder, forked=not long or number % 3 > 0)
            status = fit.wait()
            figures.outcomes["files read back whole"] += check_readable(folder) if folder.exists() else 0
            ballast.unlink()
            if status == 0:
                break
            assert status == 2, fit.told()
            assert f"the disk is full in '{folder}" in fit.told(), fit.told()  # or one of its folders
            assert "make room and start the same command again" in fit.told()
            last = (folder / "checkpoints" / "last.ckpt").exists()
            figures.moments["after a checkpoint" if last else "before the first checkpoint"] += 1
            figures.outcomes["stopped with status 2, said so"] += 1
            if draw.random() < 0.3:
                fit = start(folder)
                assert fit.wait() == 0, fit.told()
                break
        check_same_end(folder, undisturbed)
        figures.outcomes["runs that ended on the same bits"] += 1
        shutil.rmtree(folder)
    figures.save("4-full-disk")
