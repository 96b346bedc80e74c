"""Many runs' ``result.json`` side by side, and which of them no other beats with as few bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_cartridges.cartridge_files.model_card import markdown_text
from lit_cartridges.errors import CartridgesError
from lit_cartridges.evals.statistics import Mean, with_error
from lit_cartridges.evals.table import bytes_text
from lit_cartridges.reproductions.drawing import Panel, as_point, svg
from lit_cartridges.reproductions.result import RESULT, Figure, Result, ResultFileError
from lit_cartridges.runs.atomic_files import write_atomically

HEADER = ("", "run", "row", "model", "figure", "KV bytes", "s", "questions", "device")


@dataclass(frozen=True)
class Entry:
    """One figure of one run, which its file's place names."""

    run: str
    result: Result
    figure: Figure

    @property
    def name(self) -> str:
        return f"{self.run}: {self.figure.row}"


@dataclass(frozen=True)
class Board:
    """One column of one table: entries from the best down, and the names of those on the front.

    A run with --quick is another column than one without.
    """

    title: str
    metric: str
    entries: tuple[Entry, ...]
    front: tuple[str, ...]


def leaderboard(folder: Path) -> tuple[list[Board], list[str]]:
    """Reads what lies in the folder, and writes ``leaderboard.md`` and ``leaderboard.svg`` there.

    Args:
        folder: with ``result.json`` of runs in folders of it, or files of any name ending in ``.json`` in itself.

    Returns:
        The boards, and a line for each file that was left out.

    Raises:
        CartridgesError: there is no result at all.
    """
    found, refused = _results(folder)
    if not found:
        told = f" ({refused[0]})" if refused else ""
        raise CartridgesError(f"folder={str(folder)!r} holds no {RESULT} of `lit-cartridges reproduce`{told}")
    known = boards(found)
    write_atomically(folder / "leaderboard.md", _page(known, refused).encode())
    write_atomically(folder / "leaderboard.svg", _plot(known).encode())
    return known, refused


def boards(results: dict[str, Result]) -> list[Board]:
    """Figures of one table, column and metric together; those of a --quick run apart."""
    groups: dict[tuple[str, str, str, bool, bool], list[Entry]] = {}
    for run, result in results.items():
        for one in result.figures:
            if one.mean is not None:
                key = (result.table, one.column, result.metric, result.higher_is_better, result.quick)
                groups.setdefault(key, []).append(Entry(run, result, one))
    made = []
    for (table, column, metric, higher, quick), entries in sorted(groups.items()):
        ranked = sorted(entries, key=lambda one: _goodness(one), reverse=True)
        title = f"{table}: {column}" + (" (--quick)" if quick else "")
        metric = f"{metric}; {'higher' if higher else 'lower'} is better"
        made.append(Board(title, metric, tuple(ranked), tuple(one.name for one in pareto(ranked))))
    return made


def pareto(entries: Sequence[Entry]) -> list[Entry]:
    """Those that no other with as few bytes is as good as, from the fewest bytes up; without known bytes none is."""
    known = sorted(
        (one for one in entries if one.figure.kv_bytes is not None),
        key=lambda one: (one.figure.kv_bytes or 0, -_goodness(one)),
    )
    front: list[Entry] = []
    for one in known:
        if not front or _goodness(one) > _goodness(front[-1]):
            front.append(one)
    return front


def _goodness(one: Entry) -> float:
    mean = one.figure.mean or 0.0
    return mean if one.result.higher_is_better else -mean


def _results(folder: Path) -> tuple[dict[str, Result], list[str]]:
    paths = sorted({*folder.glob("*.json"), *folder.rglob(RESULT)})
    found: dict[str, Result] = {}
    refused = []
    for path in paths:
        place = path.relative_to(folder)
        run = place.parent.as_posix() if place.name == RESULT and len(place.parts) > 1 else place.name
        try:
            found[run] = Result.read(path)
        except ResultFileError as error:
            refused.append(str(error))
    return found, refused


def _page(known: Sequence[Board], refused: Sequence[str]) -> str:
    lines = ["# Leaderboard", "", "▲ marks what no other run with as few bytes is as good as.", ""]
    for board in known:
        lines += [f"## {markdown_text(board.title)}", "", f"{markdown_text(board.metric)}.", ""]
        rows = [HEADER, ("---",) * len(HEADER), *(cells(board, one) for one in board.entries)]
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    lines += [f"- left out: {markdown_text(line)}" for line in refused]
    return "\n".join([*lines, "![figure over bytes of keys and values](leaderboard.svg)", ""])


def cells(board: Board, one: Entry) -> tuple[str, ...]:
    """An entry's row, escaped for Markdown."""
    figure = one.figure
    told = (
        "▲" if one.name in board.front else "",
        one.run,
        figure.row,
        one.result.model,
        with_error(Mean(figure.mean, figure.standard_error), "{:.4g}"),
        "–" if figure.kv_bytes is None else bytes_text(figure.kv_bytes),
        f"{figure.seconds:,.0f}",
        f"{figure.num_questions:,}",
        one.result.device,
    )
    return tuple(markdown_text(cell) for cell in told)


def _plot(known: Sequence[Board]) -> str:
    return svg(
        [
            Panel(
                title=board.title,
                x_title="bytes of keys and values",
                points=[
                    as_point(one.figure, name=one.name, series=one.run)
                    for one in board.entries
                    if one.figure.kv_bytes is not None
                ],
                front=board.front,
            )
            for board in known
        ]
    )
