"""What a run has logged to its CSV files, as one curve over all of its starts."""

from __future__ import annotations

import csv
from pathlib import Path


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of ``folder``'s ``logs/version_*/metrics.csv``, each with its ``step`` and the figures that it has.

    A run that was interrupted goes on from its last checkpoint in a new file. Its rows take the place of those that
    were logged after that checkpoint, and its clocks (``time/…``), which begin at 0, are added to the earlier ones.
    """
    rows: list[dict[str, float]] = []
    for file in sorted(folder.glob("logs/version_*/metrics.csv"), key=_version):
        with file.open(newline="") as lines:
            new = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(lines)]
        if not new:
            continue
        first = min(row["step"] for row in new)
        rows = [row for row in rows if row["step"] < first]
        before = next((row for row in reversed(rows) if "time/training_s" in row), {})
        rows += [
            {k: v + before.get(k, 0.0) if k.startswith("time/") else v for k, v in row.items()} for row in new
        ]
    return rows


def _version(file: Path) -> int:
    return int(file.parent.name.removeprefix("version_"))
