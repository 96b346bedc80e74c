"""``python -m tests.faults.report [--short]``: what the last run of these tests has tried, as a Markdown table."""

from __future__ import annotations

import json
import sys

from tests.faults.figures import FOLDER


def main(args: list[str]) -> None:
    """Print the table."""
    folder = FOLDER / ("short" if "--short" in args else "long")
    rows = [("fault", "moments tried", "times", "outcome")]
    for file in sorted(folder.glob("*.json"), key=lambda path: int(path.name.split("-")[0])):
        known = json.loads(file.read_text())
        moments = sorted(known["moments"].items(), key=lambda item: -item[1])
        times = str(sum(known["moments"].values()))
        outcomes = "; ".join(f"{number:,} × {what}" for what, number in known["outcomes"].items())
        rows.append((known["fault"], ", ".join(f"{what} {n}" for what, n in moments), times, outcomes))
    if len(rows) == 1:
        raise SystemExit(f"nothing in {folder}: run `make test-faults` first")
    rows.insert(1, ("---", "---", "---:", "---"))
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    main(sys.argv[1:])
