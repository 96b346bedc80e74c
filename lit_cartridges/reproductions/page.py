"""A result as a Markdown page: our figures, and the paper's beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lit_cartridges.cartridge_files.model_card import markdown_text
from lit_cartridges.evals.statistics import Mean, with_error
from lit_cartridges.evals.table import aligned, bytes_text
from lit_cartridges.reproductions.result import LEFT_OUT, Figure, Result
from lit_cartridges.terminal import printable_line

PAPER = "paper: "


def rows_of(result: Result, form: str) -> list[list[str]]:
    """Cells of plain text, the header first: a row per row of ours or the paper's, a column per column, and the paper's of the
    same name beside it."""
    ours = {(one.row, one.column): one for one in result.figures}
    theirs = {(one.row, one.column): one for one in result.published}
    names = dict.fromkeys(row for row, _ in (*ours, *theirs))
    columns: list[tuple[str, bool]] = []
    for column in dict.fromkeys(column for _, column in (*ours, *theirs)):
        columns += [(column, False)] if any(column == own for _, own in ours) else []
        columns += [(column, True)] if any(column == own for _, own in theirs) else []
    rows = [["", *(PAPER + name if papers else name for name, papers in columns), "KV positions", "KV bytes"]]
    rows[0] += ["questions", "s per cell"]
    for name in names:
        cells = [name]
        for column, papers in columns:
            known = theirs.get((name, column)) if papers else ours.get((name, column))
            cells.append(_shown(known, form))
        rows.append([*cells, *_sizes([one for (row, _), one in ours.items() if row == name])])
    return rows


def page(result: Result, *, form: str, notes: Sequence[str] = ()) -> str:
    """The whole page."""
    header, *rest = ([markdown_text(cell) for cell in row] for row in rows_of(result, form))
    rule = ["---", *["---:"] * (len(header) - 1)]
    what = f"{result.model or 'no model'}, {result.device}" + (", --quick" if result.quick else "")
    settings = ", ".join(f"{name}={value}" for name, value in result.settings.items())
    told = [
        f"{what}. {result.metric}; mean ± standard error over questions or clusters of them.",
        f"Settings: {settings}.",
        "Versions: " + ", ".join(f"{name} {found}" for name, found in result.versions.items()) + ".",
        *dict.fromkeys(f"{PAPER}{one.where}" for one in result.published),
        *notes,
        *left_out(result.figures),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (header, rule, *rest)]
    title = f"# {markdown_text(result.table)} ({markdown_text(result.paper)})"
    return "\n".join([title, "", *lines, "", *(f"- {markdown_text(line)}" for line in told), ""])


def text_page(result: Result, *, form: str, notes: Sequence[str] = ()) -> str:
    """The table for a terminal."""
    told = [f"({line})" for line in (result.metric, *notes, *left_out(result.figures))]
    return "\n".join([aligned(rows_of(result, form)), *map(printable_line, told)])


def left_out(figures: Iterable[Figure]) -> list[str]:
    """Why figures are missing."""
    return [
        f"left out: {one.row}, {one.column}: {one.facts[LEFT_OUT]}"
        for one in figures
        if LEFT_OUT in one.facts
    ]


def _shown(known: object, form: str) -> str:
    if isinstance(known, Figure):
        return with_error(Mean(known.mean, known.standard_error), form)
    return "" if known is None else form.format(getattr(known, "value", None))


def _sizes(figures: Sequence[Figure]) -> list[str]:
    """Of one row, whose cells may differ in them."""
    positions = dict.fromkeys(f"{x.num_kv_tokens:,}" for x in figures if x.num_kv_tokens is not None)
    held = dict.fromkeys(bytes_text(x.kv_bytes) for x in figures if x.kv_bytes is not None)
    asked = dict.fromkeys(f"{x.num_questions:,}" for x in figures)
    seconds = f"{max(x.seconds for x in figures):,.0f}" if figures else ""
    return [*(", ".join(x) for x in (positions, held, asked)), seconds]
