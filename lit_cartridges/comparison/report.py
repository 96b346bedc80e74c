"""The comparison as a table."""

from __future__ import annotations

from collections.abc import Sequence

from lit_cartridges.cartridge_files.model_card import markdown_text
from lit_cartridges.comparison.results import OverSeeds
from lit_cartridges.evals.statistics import with_error
from lit_cartridges.evals.table import bytes_text


def table_rows(lines: Sequence[OverSeeds], steps: Sequence[int]) -> list[list[str]]:
    """Rows of cells, the header first; accuracy after each of ``steps`` optimizer steps."""
    header = ["strategy", "compression", "positions"]
    header += ["accuracy untrained" if step == 0 else f"after {step} steps" for step in steps]
    rows = [header + ["training s", "init s", "init peak memory"]]
    for line in lines:
        cells = [line.strategy, f"{line.compression:g}×", f"{line.num_tokens:,}"]
        cells += [with_error(line.accuracy.get(step), "{:.3f}") for step in steps]
        memory = line.init_peak_memory_bytes.mean
        cells += [with_error(line.training_s.get(steps[-1]), "{:.1f}"), with_error(line.init_s, "{:.2f}")]
        rows.append([*cells, "–" if memory is None else bytes_text(round(memory))])
    return rows


def markdown(rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A page with the table and the notes."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    header, *rest = ([markdown_text(cell) for cell in row] for row in rows)
    lines = ["| " + " | ".join(row) + " |" for row in [header, rule, *rest]]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])
