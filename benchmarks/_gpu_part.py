"""One part of `gpu_figures`: figures printed as they come, a budget of seconds that is kept, errors that end nothing else.

A part is a function ``measure(part)``. It times calls with `Part.race` and reports with `Part.row`. Whatever did not fit the
budget or the memory, or failed, stands in `Part.missing` with the reason.
"""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks import _common as common
from benchmarks._gpu_card import Card
from lit_cartridges.init.init_cost import measured_init
from lit_cartridges.terminal import printable_line

_ONCE_S = 5.0


class OutOfTime(BaseException):
    """The budget is over. No ``except Exception`` on the way swallows it."""


@dataclass
class Timing:
    """Seconds of each repeat, and the most memory that one held beyond what was held before it."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: float = 0.0

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class Part:
    """A part while it measures, and what it found.

    Args:
        budget_s: seconds that it may take.
        rows: name of what was measured, and its figures by a name with their unit.
        missing: what was not measured, and why.
    """

    name: str
    card: Card
    budget_s: float
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    _begun: float = field(default_factory=time.perf_counter)

    @property
    def left_s(self) -> float:
        """Of the budget."""
        return self.budget_s - (time.perf_counter() - self._begun)

    def row(self, name: str, **figures: Any) -> None:
        """Keep figures, and print them now."""
        self.rows[name] = figures
        told = " · ".join(
            f"{heading(key)} {shown(key, value)}" for key, value in figures.items() if value is not None
        )
        self._print(f"{name}: {told}")

    def miss(self, name: str, why: str) -> None:
        """Keep what was not measured, and print it now."""
        self.missing[name] = why
        self._print(f"{name}: not measured, {why}")

    def ratio(self, name: str, times: float | None, wanted: float | None = None) -> None:
        """How many times one is of the other; nothing where one of them is not known."""
        if times is not None:
            self.row(name, times=times, wanted_times=wanted)

    def share(
        self, name: str, share: float | None, *, wanted: float | None = None, at_most: float | None = None
    ) -> None:
        """What share one is of the other, and what is wanted at least or at most; nothing where it is not known."""
        if share is not None:
            wish = {"wanted_share": wanted} if at_most is None else {"wanted_at_most_share": at_most}
            self.row(name, share=share, **wish)

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """An error inside ends this one measurement, with a line."""
        try:
            yield
        except Exception as error:
            self.miss(name, _why(error))
            error.__traceback__ = None  # its frames hold tensors
            common.free_memory()

    def race(
        self,
        calls: Mapping[str, Callable[[], Any]],
        report: Callable[[str, Timing], None],
        *,
        repeats: int = 3,
        warm_ups: int = 1,
        expected_s: Mapping[str, float] | None = None,
    ) -> dict[str, Timing]:
        """Time the calls in turn, A B A B …, as often as the budget allows; those that never ran through are missing.

        A call of more than five seconds is made once, without a warm-up, and in the tiny mode every call is.

        Args:
            report: told a name and its timing once that is final; at the end of the budget too.
            expected_s: of the first call, where it can be told from smaller ones.
        """
        last, timings = dict(expected_s or {}), {name: Timing() for name in calls}
        done: dict[str, Timing] = {}

        def final(name: str) -> None:
            if timings[name].seconds and name not in self.missing and name not in done:
                done[name] = timings[name]
                report(name, timings[name])

        if self.card.tiny:
            warm_ups, repeats = 0, 1
        try:
            for round_ in range(-warm_ups, repeats):
                for name, call in calls.items():
                    if name in self.missing or name in done:
                        continue
                    if (needed := last.get(name, 0.0)) > self.left_s:
                        if not timings[name].seconds:
                            left = max(0.0, self.left_s)
                            self.miss(name, f"{needed:.1f} s needed, {left:.1f} s of the budget left")
                        continue
                    with self.trying(name):
                        with measured_init(torch.device(self.card.device)) as cost:
                            sample = common.timed(call, self.card.device)
                        last[name] = sample.wall_s
                        if round_ >= 0 or sample.wall_s > _ONCE_S:
                            timings[name].seconds.append(sample.wall_s)
                            timings[name].peak_bytes = max(timings[name].peak_bytes, cost.peak_memory_bytes)
                    if round_ == repeats - 1 or last.get(name, 0.0) > _ONCE_S:
                        final(name)
        finally:
            for name in calls:
                final(name)
        return done

    def _print(self, line: str) -> None:
        print(printable_line(f"[{self.card.elapsed_s():4.0f} s] {self.name} · {line}"), flush=True)

    @property
    def report(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "budget_s": self.budget_s,
            "seconds": self.seconds,
            "rows": self.rows,
            "missing": self.missing,
        }


def run_part(name: str, measure: Callable[[Part], None], card: Card, budget_s: float) -> Part:
    """Measure, and come back in any case: at the end, at the budget, or at an error, each said in a line."""
    part = Part(name, card, budget_s)
    try:
        with _alarm(budget_s):
            measure(part)
    except OutOfTime:
        part.miss("the rest", f"the budget of {budget_s:.1f} s is over")
    except Exception as error:
        part.miss("the rest", _why(error))
        error.__traceback__ = None
    common.free_memory()
    part.seconds = time.perf_counter() - part._begun
    return part


def heading(key: str) -> str:
    """A figure's name above a column."""
    return key.replace("_per_s", "/s").replace("tflop", "TFLOP").replace("tb/", "TB/").replace("_", " ")


def shown(key: str, value: Any) -> str:
    """A figure as tables show it, by the unit at the end of its name."""
    if value is None:
        return "–"
    if isinstance(value, str | bool):
        return str(value)
    if key.endswith("share"):
        return f"{value:.1%}"
    if key.endswith("_bytes"):
        return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
    if isinstance(value, int) or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 10 else f"{value:.1f}"


def _why(error: BaseException) -> str:
    if common.out_of_memory(error):
        return "out of memory"
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else ''}"


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """`OutOfTime` after so many seconds, at the next Python instruction; a kernel that runs is waited for."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
