"""Runs many trainings, several at a time, each as a ``lit-cartridges fit`` of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lit_cartridges.errors import DetailedError
from lit_cartridges.runs.atomic_files import write_atomically

_STEP = re.compile(r"(\d+)/(\d+) \[")
# More bars than this do not fit a terminal: then only those that move are shown.
_SHOWN_BARS = 12


class TrainingRun(Protocol):
    """What is to be trained."""

    @property
    def name(self) -> str:
        """For the bars."""

    @property
    def folder(self) -> Path:
        """Where the run writes: its ``trainer.default_root_dir``."""

    @property
    def max_steps(self) -> int:
        """Optimizer steps."""

    def arguments(self) -> list[str]:
        """The command line after ``lit-cartridges``."""


class TrainingFailed(DetailedError, RuntimeError):
    """One of several trainings has failed; with the end of its log."""


def train_all(runs: Sequence[TrainingRun], *, processes: int) -> None:
    """Train all, ``processes`` at a time, with bars; one core each, unless ``OMP_NUM_THREADS`` says otherwise.

    A run that has finished is not run again, and one that was interrupted goes on from its last checkpoint.

    Raises:
        ValueError: a folder holds a run with other settings; nothing has been started then.
        TrainingFailed: a run did, with the end of its log. The others are stopped.
    """
    waiting = [run for run in runs if not is_finished(run)]
    going: list[tuple[TrainingRun, subprocess.Popen[bytes]]] = []
    with _Bars(runs, waiting) as bars:
        try:
            while waiting or going:
                while waiting and len(going) < processes:
                    run = waiting.pop(0)
                    bars.start(run)
                    going.append((run, _start(run)))
                time.sleep(0.3)
                for run, process in list(going):
                    bars.show(run)
                    if process.poll() is not None:
                        going.remove((run, process))
                        if process.returncode:
                            raise TrainingFailed(f"training {run.name!r} failed", details=_log_end(run, 2000))
                        _mark(run, finished=True)
                        bars.finish(run)
        finally:
            for _, process in going:
                process.terminate()
                process.wait()


def is_finished(run: TrainingRun) -> bool:
    """Whether the run has been trained to its end with these settings.

    Raises:
        ValueError: it was begun with other settings; the message names them.
    """
    mark = _marked(run)
    if not mark.exists():
        return False
    known = json.loads(mark.read_text())
    then, now = known["arguments"], run.arguments()
    if then != now:
        raise ValueError(
            f"folder={str(run.folder)!r} holds a run with other settings (then {_without(then, now)}, now "
            f"{_without(now, then)}); give another folder, or remove this one"
        )
    return bool(known["finished"])


def _start(run: TrainingRun) -> subprocess.Popen[bytes]:
    run.folder.mkdir(parents=True, exist_ok=True)
    _mark(run, finished=False)
    command = [sys.executable, "-m", "lit_cartridges.cli", *run.arguments()]
    with _log(run).open("wb") as log:
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "COLUMNS": "100"}
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _mark(run: TrainingRun, *, finished: bool) -> None:
    content = {"arguments": run.arguments(), "finished": finished}
    write_atomically(_marked(run), (json.dumps(content, indent=1) + "\n").encode())


def _marked(run: TrainingRun) -> Path:
    return run.folder / "training.json"


def _log(run: TrainingRun) -> Path:
    return run.folder / "log.txt"


def _log_end(run: TrainingRun, characters: int) -> str:
    return _log(run).read_text(errors="replace")[-characters:]


def _without(some: list[str], others: list[str]) -> str:
    return ", ".join(argument for argument in some if argument not in others) or "none of these"


class _Bars:
    """A bar for each run, or, of many, for all together and for those that are going."""

    def __init__(self, runs: Sequence[TrainingRun], waiting: Sequence[TrainingRun]) -> None:
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(),
            TextColumn("{task.fields[state]:<14}"),
            TimeElapsedColumn(),
        )
        self.progress, self.crowded = Progress(*columns), len(runs) > _SHOWN_BARS
        self.done, self.number = len(runs) - len(waiting), len(runs)
        self.all = self.progress.add_task(
            "all trainings", total=self.number, completed=self.done, state="", visible=self.crowded
        )
        self.ids = {}
        for run in runs:
            is_waiting = any(run is other for other in waiting)
            self.ids[run.name] = self.progress.add_task(
                run.name,
                total=run.max_steps,
                completed=0 if is_waiting else run.max_steps,
                start=False,
                state="waiting" if is_waiting else "done before",
                visible=not self.crowded,
            )
        self._show_all()

    def __enter__(self) -> _Bars:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def start(self, run: TrainingRun) -> None:
        self.progress.start_task(self.ids[run.name])
        self.progress.update(self.ids[run.name], visible=True)

    def show(self, run: TrainingRun) -> None:
        steps = _STEP.findall(_log_end(run, 400))
        if steps:
            state = f"{steps[-1][0]}/{run.max_steps} steps"
            self.progress.update(self.ids[run.name], completed=int(steps[-1][0]), state=state)
        else:
            self.progress.update(self.ids[run.name], state="starting")

    def finish(self, run: TrainingRun) -> None:
        self.done += 1
        self.progress.update(
            self.ids[run.name], completed=run.max_steps, state="done", visible=not self.crowded
        )
        self.progress.stop_task(self.ids[run.name])
        self._show_all()

    def _show_all(self) -> None:
        self.progress.update(self.all, completed=self.done, state=f"{self.done}/{self.number} done")
