"""What was tried and how often, as JSON in ``runs/faults/``; ``python -m tests.faults.report`` prints it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "runs" / "faults"


class Figures:
    """Counts of one test.

    Args:
        fault: what was done to the runs.
        long: the long version of the test counted.
    """

    def __init__(self, fault: str, *, long: bool) -> None:
        self.fault, self.long = fault, long
        self.moments: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    def save(self, name: str) -> None:
        """Call it once every check has passed."""
        file = FOLDER / ("long" if self.long else "short") / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"fault": self.fault, "moments": dict(self.moments), "outcomes": dict(self.outcomes)}
        file.write_text(json.dumps(content, indent=1) + "\n")
