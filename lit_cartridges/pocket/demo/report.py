"""The demo's table for the terminal, and what its page tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lit_cartridges.evals.result_file import Evaluation
from lit_cartridges.evals.statistics import Mean, with_error
from lit_cartridges.evals.table import aligned, bytes_text
from lit_cartridges.pocket.demo.plan import DemoText
from lit_cartridges.pocket.demo.scoring import MODEL, Row
from lit_cartridges.pocket.demo.training import Trained
from lit_cartridges.report.facts import RunFacts
from lit_cartridges.report.gathering import gather_run, rows_of

HEADER = (
    "system",
    "questions about",
    "KV positions",
    "KV bytes",
    "accuracy ± s.e.",
    "answer log-lik. (nats/token)",
    "s/answer",
    "training s",
)


def cells(row: Row) -> list[str]:
    """A row's cells as text, in the order of `HEADER`."""
    result = row.result
    return [
        result.system,
        row.text,
        f"{result.num_kv_tokens:,}",
        bytes_text(result.kv_bytes),
        f"{result.accuracy:.3f} ± {result.accuracy_standard_error:.3f}",
        with_error(Mean(result.answer_log_likelihood, None), "{:.3f}"),
        f"{result.seconds_per_answer:.4f}",
        "" if row.training_s is None else f"{row.training_s:.0f}",
    ]


def table(rows: Sequence[Row]) -> str:
    """For the terminal."""
    return aligned([list(HEADER), *map(cells, rows)])


def page_facts(rows: Sequence[Row], trained: Sequence[Trained], texts: Sequence[DemoText]) -> list[RunFacts]:
    """What the page tells: every run with its text's held-out questions, and behind them what was not trained."""
    lengths = {text.name: text.num_tokens for text in texts}

    def evaluation(of: Sequence[Row], system: str = "") -> Evaluation:
        results = tuple(replace(row.result, system=system or row.result.system) for row in of)
        text = of[0].text
        return Evaluation(
            task=results[0].task,
            results=results,
            model=MODEL,
            corpus=f"text {text}",
            corpus_tokens=lengths[text],
        )

    own = {row.result.system: row for row in rows}
    facts = []
    for one in trained:
        row = own[one.run.name]
        given = [evaluation([row], system="cartridge")]
        known = gather_run(
            one.run.folder,
            name=one.run.name,
            given=given,
            recording=one.run.recording,
            training_s=row.training_s,
        )
        facts.append(known)
    names = {one.run.name for one in trained}
    others = [row for row in rows if row.result.system not in names]
    for text in lengths:
        of = [row for row in others if row.text == text]
        held = evaluation(of)
        made = [replace(m, training_s=row.training_s) for m, row in zip(rows_of(held), of, strict=True)]
        facts.append(RunFacts(name=f"baselines of text {text}", rows=made, evaluations=[held]))
    return facts
