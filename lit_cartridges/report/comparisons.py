"""A comparison of init strategies: one line of its table is a run to the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_cartridges.files.content import one_line, parse_json
from lit_cartridges.report.facts import Curve, ReportError, Row, RunFacts

COMPARISON = "comparison.json"


def gather_comparison(folder: Path) -> list[RunFacts]:
    """The lines of ``comparison.json``: means over seeds, with their standard errors.

    Raises:
        ReportError: the file is none of ours.
    """
    file = folder / COMPARISON
    try:
        known = parse_json(file.read_bytes())
        return [_line(known, row) for row in known["rows"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(
            f"{file} is no comparison ({one_line(error)}); start compare-inits again"
        ) from error


def _line(known: Mapping[str, Any], row: Mapping[str, Any]) -> RunFacts:
    name = f"{row['strategy']} {float(row['compression']):g}×"
    points = sorted((int(step), mean) for step, mean in row["accuracy"].items())
    accuracy = Curve(
        name="cartridge",
        steps=[step for step, _ in points],
        values=[float(mean["mean"] or 0.0) for _, mean in points],
        errors=[float(mean["standard_error"] or 0.0) for _, mean in points],
    )
    seconds = [mean["mean"] for _, mean in sorted((int(s), m) for s, m in row["training_s"].items())]
    headline = {
        "base model": str(known["model"]),
        "corpus": f"{int(known['corpus_tokens']):,} tokens",
        "cartridge": f"{int(row['num_tokens']):,} positions",
        "seeds": str(known["seeds"]),
        "init": "" if row["init_s"]["mean"] is None else f"{float(row['init_s']['mean']):.2f} s",
    }
    last = Row(
        system="cartridge",
        about=str(known["task"]),
        num_kv_tokens=int(row["num_tokens"]),
        corpus_tokens=int(known["corpus_tokens"]),
        accuracy=accuracy.values[-1],
        accuracy_standard_error=None if accuracy.errors is None else accuracy.errors[-1],
        series=str(row["strategy"]),
        training_s=None if not seconds or seconds[-1] is None else float(seconds[-1]),
    )
    return RunFacts(
        name=name,
        headline={label: value for label, value in headline.items() if value},
        rows=(last,),
        accuracies=(accuracy,),
    )
