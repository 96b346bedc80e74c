"""A run that SIGKILL ends at a given call of a given function, and that is started again until it is done, ends on the
bits of one left alone.

Each attempt is a process of its own, which kills itself: in the middle of generating, of the backward pass, half-way
through writing any of its files, and just before and after their renaming into place.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from lit_cartridges.losses import _ChunkedLoss
from lit_cartridges.teachers.row_batch import RowBatch
from tests.faults.figures import Figures
from tests.faults.run_files import check_readable, check_same_end

# (object, function, kill after the call): the calls are counted from the attempt's start.
MOMENTS: dict[str, tuple[Any, str, bool]] = {
    "generating": (RowBatch, "step", False),
    "backward pass": (_ChunkedLoss, "backward", False),
    "a file half written": (os, "fsync", False),
    "a file not renamed": (os, "replace", False),
    "a file renamed": (os, "replace", True),
    "previous.ckpt linked": (os, "link", True),
}
# Of a save and the recording of a group, which most steps consist of.
CALLS_PER_STEP = {"fsync": 20, "replace": 11}


def arm(moment: str, call: int) -> None:
    """Only in a process that is about to end: it dies at the ``call``-th (from 0) call of ``moment``'s function."""
    owner, name, after = MOMENTS[moment]
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= call:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        elif name == "fsync":
            os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, staticmethod(deadly) if owner is _ChunkedLoss else deadly)


@pytest.mark.faults
def test_a_run_killed_once_at_each_moment(start, undisturbed, tmp_path):
    killed = []
    for moment in MOMENTS:
        fit = start(
            tmp_path / "run", first=partial(arm, moment, 2 + CALLS_PER_STEP.get(MOMENTS[moment][1], 0))
        )
        killed.append(fit.wait())
        assert killed[-1] in (0, 128 + signal.SIGKILL), fit.told()
        check_readable(tmp_path / "run")
    assert killed[0] == killed[1] == 128 + signal.SIGKILL, "generating and the backward pass are reached"
    assert killed.count(128 + signal.SIGKILL) >= 4  # near the end an attempt may have too little left to do
    fit = start(tmp_path / "run")
    assert fit.wait() == 0, fit.told()
    check_same_end(tmp_path / "run", undisturbed)


@pytest.mark.faults
@pytest.mark.slow
def test_runs_killed_at_a_hundred_calls(start, undisturbed, tmp_path):
    draw, figures, number = random.Random(0), Figures("SIGKILL at a function's call", long=True), 0
    while figures.moments.total() < 100:
        folder, number = tmp_path / str(number), number + 1
        while True:
            moment = draw.choice(list(MOMENTS))
            fit = start(
                folder,
                first=partial(arm, moment, draw.randrange(3 * CALLS_PER_STEP.get(MOMENTS[moment][1], 2))),
            )
            if fit.wait() == 0:
                break
            assert fit.wait() == 128 + signal.SIGKILL, fit.told()
            figures.moments[moment] += 1
            figures.outcomes["files read back whole"] += check_readable(folder)
        check_same_end(folder, undisturbed)
        figures.outcomes["runs that ended on the same bits"] += 1
    figures.save("2-killed-at-a-call")
