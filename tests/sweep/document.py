"""docs/models.md: what became of every model, written by `python -m tests.sweep --write` and read back by the tests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.sweep.outcome import KINDS_OF_OUTCOME, Outcome
from tests.sweep.tiny_lms import KINDS

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
_START, _END = "<!-- made by `python -m tests.sweep --write` -->", "<!-- end -->"
_HEADINGS = {"exact": "Exact", "refused": "Refused by name", "not built": "Not tried"}


def counts(outcomes: Sequence[Outcome]) -> str:
    """The table of counts: a row per kind of model, a column per kind of outcome, variants left out."""
    types = [outcome for outcome in outcomes if "+" not in outcome.name]
    columns = [name for name in KINDS_OF_OUTCOME if any(outcome.outcome == name for outcome in outcomes)]
    lines = [f"| | tried | {' | '.join(columns)} |", "| --- |" + " --: |" * (len(columns) + 1)]
    for kind, words in {**KINDS, "": "all"}.items():
        count = Counter(outcome.outcome for outcome in types if kind in ("", outcome.kind))
        lines.append(f"| {words} | {count.total()} | {' | '.join(str(count[name]) for name in columns)} |")
    return "\n".join(lines)


def lists(outcomes: Sequence[Outcome]) -> str:
    """A section per outcome; names, by reason where there is one."""
    sections = []
    for outcome in KINDS_OF_OUTCOME:
        group = [x for x in outcomes if x.outcome == outcome]
        if not group:
            continue
        sections.append(f"## {_HEADINGS.get(outcome, outcome)} ({len(group)})\n")
        by_reason: dict[str, list[str]] = {}
        for x in group:
            by_reason.setdefault(_reason(x), []).append(x.name)
        for reason, names in sorted(by_reason.items()):
            sections.append(f"- {reason}{': ' if reason else ''}{', '.join(f'`{name}`' for name in names)}")
        sections.append("")
    return "\n".join(sections)


def _reason(outcome: Outcome) -> str:
    """The refusal without the model's name in front and the advice behind."""
    reason = (
        re.sub(r"^(a model of type )?\S+ ", "", outcome.reason)
        if outcome.outcome == "refused"
        else outcome.reason
    )
    return reason.partition(";")[0].replace("|", "/")


def write(outcomes: Sequence[Outcome], version: str) -> None:
    """Put counts and lists into the document, between its marks."""
    before, _, rest = DOCUMENT.read_text().partition(_START)
    _, _, after = rest.partition(_END)
    made = f"transformers {version}.\n\n{counts(outcomes)}\n\n{lists(outcomes)}"
    DOCUMENT.write_text(f"{before}{_START}\n\n{made}\n{_END}{after}")


def documented() -> tuple[str, Mapping[str, str]]:
    """The version of transformers that the document is about, and the outcome of each name in it."""
    made = DOCUMENT.read_text().partition(_START)[2].partition(_END)[0]
    found = re.search(r"transformers ([\d.]+)\.\n", made)
    assert found, f"{DOCUMENT} names no version of transformers"
    outcomes: dict[str, str] = {}
    for section in made.split("\n## ")[1:]:
        heading, _, lines = section.partition("\n")
        words = heading.rpartition(" (")[0]
        outcome = next((key for key, value in _HEADINGS.items() if value == words), words)
        outcomes |= dict.fromkeys(_names(lines.splitlines()), outcome)
    return found[1], outcomes


def _names(lines: Iterable[str]) -> list[str]:
    # Reasons may quote words too, so names are those of the list at the line's end.
    return [
        name
        for line in lines
        if (end := re.search(r"(`[^`]+`(, )?)+$", line))
        for name in re.findall(r"`([^`]+)`", end[0])
    ]
