"""The demo's trainings, and what they logged."""

from __future__ import annotations

from dataclasses import dataclass

from lit_cartridges.pocket.demo.plan import Run
from lit_cartridges.runs.run_metrics import read_metrics
from lit_cartridges.strategies.training_processes import train_all as train_processes


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Args:
        generating_s, training_s: seconds on its core; conversations that another run made are counted there.
        curve: rows of the run's metrics, by optimizer step.
    """

    run: Run
    generating_s: float
    training_s: float
    curve: list[dict[str, float]]


def train_all(runs: list[Run], *, processes: int) -> list[Trained]:
    """See `lit_cartridges.strategies.training_processes.train_all`."""
    train_processes(runs, processes=processes)
    return [_trained(run) for run in runs]


def _trained(run: Run) -> Trained:
    curve = read_metrics(run.folder)
    times = [row for row in curve if "time/training_s" in row]
    last = times[-1] if times else {}
    return Trained(run, last.get("time/generating_s", 0.0), last.get("time/training_s", 0.0), curve)
