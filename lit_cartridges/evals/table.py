"""Results as a text table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lit_cartridges.evals.result import EvalResult
from lit_cartridges.evals.statistics import Mean, with_error
from lit_cartridges.terminal import printable_line


def text_table(results: Sequence[EvalResult], *, extra: Mapping[str, Sequence[str]] | None = None) -> str:
    """One line per result, columns aligned.

    Args:
        extra: further columns by their titles, with one cell per result.
    """
    header = ["system", "KV positions", "KV bytes", "accuracy", "log-lik./token", "s/answer", "questions"]
    rows = [
        [
            result.system,
            f"{result.num_kv_tokens:,}",
            bytes_text(result.kv_bytes),
            with_error(Mean(result.accuracy, result.accuracy_standard_error), "{:.3f}"),
            with_error(Mean(result.answer_log_likelihood, None), "{:.3f}"),
            f"{result.seconds_per_answer:.4f}",
            f"{result.num_questions:,}",
        ]
        for result in results
    ]
    columns = dict(extra or {})
    if any(result.teacher_divergence is not None for result in results):
        shown = (Mean(result.teacher_divergence, None) for result in results)
        columns = {"KL to teacher": [with_error(one, "{:.3f}") for one in shown], **columns}
    for title in dict.fromkeys(title for result in results for title in result.figures):
        columns[title] = [with_error(result.figures.get(title), "{:.3f}") for result in results]
    for title, cells in columns.items():
        header.append(title)
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return aligned([header, *rows])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns, the first to the left and the others to the right, a rule under the first row."""
    rows = [[printable_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def bytes_text(num_bytes: int) -> str:
    """12,345,678 as "12.3 MB", in powers of 1000."""
    size, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.95 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"
