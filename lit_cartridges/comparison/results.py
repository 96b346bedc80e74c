"""What the runs have logged, and its means over seeds."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lit_cartridges.comparison.plan import ComparedRun
from lit_cartridges.evals.statistics import Mean
from lit_cartridges.runs.run_metrics import read_metrics


@dataclass(frozen=True)
class Measured:
    """One finished run.

    Args:
        init_s: seconds of the init strategy; None where the run did not log them.
        init_peak_memory_bytes: see `lit_cartridges.init.init_cost`; likewise.
        accuracy: by optimizer step.
        training_s: seconds of optimizer steps until then, without the init, making conversations and asking.
        generating_s: seconds of making conversations; a run that found them made took none.
        total_training_s: as ``training_s``, at the end.
    """

    run: ComparedRun
    init_s: float | None
    init_peak_memory_bytes: float | None
    accuracy: dict[int, float]
    training_s: dict[int, float]
    generating_s: float
    total_training_s: float

    @classmethod
    def of(cls, run: ComparedRun, *, eval_name: str = "eval") -> Measured:
        """Read the run's CSV files."""
        rows = read_metrics(run.folder)
        figure = f"{eval_name}/cartridge/accuracy"
        accuracy = {int(row["step"]): row[figure] for row in rows if figure in row}
        # Lightning logs what was done by the end of step n (counted from 1) under n - 1, and a run's end under its last.
        times = [
            (min(row["step"] + 1, run.max_steps), row["time/training_s"])
            for row in rows
            if "time/training_s" in row
        ]
        clock = np.array([(0.0, 0.0), *times])
        training_s = {step: float(np.interp(step, clock[:, 0], clock[:, 1])) for step in accuracy}
        last: dict[str, float] = next((row for row in reversed(rows) if "time/generating_s" in row), {})
        start: dict[str, float] = next((row for row in rows if "init/seconds" in row), {})
        return cls(
            run=run,
            init_s=start.get("init/seconds"),
            init_peak_memory_bytes=start.get("init/peak_memory_bytes"),
            accuracy=accuracy,
            training_s=training_s,
            generating_s=last.get("time/generating_s", 0.0),
            total_training_s=float(clock[-1, 1]),
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        run = self.run
        names = {"strategy": run.strategy, "compression": run.compression, "seed": run.seed}
        figures = {name: value for name, value in vars(self).items() if name != "run"}
        command = shlex.join(["lit-cartridges", *run.arguments()])
        return {**names, "num_tokens": run.num_tokens, **figures, "command": command}


@dataclass(frozen=True)
class OverSeeds:
    """One line of the table: a strategy at one compression, over seeds. Arguments as for `Measured`."""

    strategy: str
    compression: float
    num_tokens: int
    accuracy: dict[int, Mean]
    training_s: dict[int, Mean]
    init_s: Mean
    init_peak_memory_bytes: Mean

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def over_seeds(measured: Sequence[Measured]) -> list[OverSeeds]:
    """By compression, and by strategy in the runs' order."""
    groups: dict[tuple[float, str], list[Measured]] = {}
    for one in measured:
        groups.setdefault((one.run.compression, one.run.strategy), []).append(one)
    order = list(dict.fromkeys(compression for compression, _ in groups))
    made = []
    for (compression, strategy), own in sorted(groups.items(), key=lambda item: order.index(item[0][0])):
        steps = [step for step in own[0].accuracy if all(step in one.accuracy for one in own)]
        made.append(
            OverSeeds(
                strategy=strategy,
                compression=compression,
                num_tokens=own[0].run.num_tokens,
                accuracy={step: Mean.of([one.accuracy[step] for one in own]) for step in steps},
                training_s={step: Mean.of([one.training_s[step] for one in own]) for step in steps},
                init_s=Mean.of([one.init_s for one in own]),
                init_peak_memory_bytes=Mean.of([one.init_peak_memory_bytes for one in own]),
            )
        )
    return made
