"""Log-log plots of seconds over lengths, and the figures that are read off them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path


def loglog_slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Least-squares slope of log y over log x: 1 is linear, 2 quadratic. Not a number for fewer than two points."""
    if len(xs) < 2:
        return math.nan
    logs = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True)]
    mean_x, mean_y = (sum(side) / len(logs) for side in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def crossing(xs: Sequence[float], ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The largest x, on straight lines between the points of the log-log plot, from which on ours is the smaller.

    None if ours is not the smaller at the last point, or is so at all of them.
    """
    gaps = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    if not gaps or gaps[-1] >= 0:
        return None
    for i in range(len(gaps) - 2, -1, -1):
        if gaps[i] >= 0:
            share = gaps[i] / (gaps[i] - gaps[i + 1])
            return math.exp(math.log(xs[i]) + share * math.log(xs[i + 1] / xs[i]))
    return None


def loglog_plot(
    path: Path, panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], *, x: str, y: str
) -> None:
    """One panel beside the other: title -> name of a line -> its xs and ys."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for place, (title, lines) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for name, (xs, ys) in lines.items():
            axes.loglog(xs, ys, "o-", base=2, label=name)
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.grid(alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
