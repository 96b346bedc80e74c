"""A clock that is set back and forth by hours while a run goes on changes nothing but the times of day in its logs."""

from __future__ import annotations

import csv
import os
import random
import re
import time
from pathlib import Path

import pytest
import tqdm.std

from tests.faults.figures import Figures
from tests.faults.run_files import check_same_end

LIBRARIES = (Path("/usr/lib"), Path("/usr/local/lib"), Path("/opt/homebrew/lib"))
HOUR_S = 3600


def jump_at_every_look() -> None:
    """Everything in this process that reads the time of day sees it anew within ten hours of the true one."""
    true, draw = time.time, random.Random(0)

    def jumping() -> float:
        return true() + draw.uniform(-10, 10) * HOUR_S

    os.environ["TQDM_MININTERVAL"] = "0"  # or the bar in the log is shown every half minute
    time.time = jumping
    tqdm.std.time = jumping


def check_figures(folder: Path, told: str) -> int:
    """No negative rate or time in the logs, and a bar that counts to the end; returns the number of figures."""
    (metrics,) = folder.glob("logs/*/metrics.csv")
    rows = list(csv.DictReader(metrics.open()))
    values = [
        float(value)
        for row in rows
        for name, value in row.items()
        if value and name[:5] in ("speed", "time/")
    ]
    assert values and all(0 <= value < HOUR_S * 1000 for value in values)
    assert all(
        float(value) < HOUR_S for row in rows for name, value in row.items() if value and name[:5] == "time/"
    )
    bars = re.findall(r"(\d+)/10 steps \[([^\]]*)\]", told)
    assert bars[-1][0] == "10"
    assert len({steps for steps, _ in bars}) > 2, "the bar stood still"
    for _, times in bars:
        assert "-" not in times and times.split(",")[0].count(":") == 1, (
            f"{times}: an hour or more, or below zero"
        )
    return len(values)


@pytest.mark.faults
def test_a_clock_that_jumps_at_every_look(start, undisturbed, tmp_path):
    fit = start(tmp_path / "run", first=jump_at_every_look)
    assert fit.wait() == 0, fit.told()
    check_same_end(tmp_path / "run", undisturbed)
    check_figures(tmp_path / "run", fit.told())


@pytest.mark.faults
@pytest.mark.slow
def test_a_clock_that_is_set_while_the_command_runs(start, undisturbed, tmp_path):
    """Debian's libfaketime, in front of the C library; the clock that only goes forward stays as it is, as on a machine."""
    library = next((p for folder in LIBRARIES for p in folder.glob("**/libfaketime*MT.*")), None)
    if library is None:
        pytest.skip("needs libfaketime (Debian's package faketime)")
    draw, figures = random.Random(0), Figures("a clock that jumps by hours", long=True)
    clock = tmp_path / "clock"
    for number in range(5):
        folder = tmp_path / f"run-{number}"
        clock.write_text("+0")
        environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "TQDM_MININTERVAL": "0",
        }
        fit = start(folder, forked=False, environment=environment)
        while not fit.ended():
            hours = draw.randint(-10, 10)
            new = clock.with_suffix(".new")
            new.write_text(f"{hours:+d}h")
            os.replace(new, clock)
            figures.moments["back" if hours < 0 else "forth"] += 1
            time.sleep(draw.uniform(0.02, 0.3))
        assert fit.wait() == 0, fit.told()
        check_same_end(folder, undisturbed)
        figures.outcomes["runs that ended on the same bits"] += 1
        figures.outcomes["rates and durations in the logs, none below zero"] += check_figures(
            folder, fit.told()
        )
    figures.save("10-clock")
