"""Every reply beside its reference: one table per set of questions, a column per system."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lit_cartridges.evals.result import Reply
from lit_cartridges.report import markup

Asked = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answered:
    """A column: what was asked about, the system's name in the table, whether it is a cartridge, and its replies."""

    about: str
    name: str
    is_cartridge: bool
    replies: Sequence[Reply]


def reply_tables(columns: Iterable[Answered]) -> str:
    """HTML of all that hold replies, cartridges first; those that were asked the same questions share a table."""
    by_questions: dict[Asked, dict[str, Answered]] = {}
    for one in sorted(columns, key=lambda column: not column.is_cartridge):
        if one.replies:
            asked = tuple((reply.prompt, reply.answer) for reply in one.replies)
            by_questions.setdefault(asked, {}).setdefault(one.name, one)
    return "".join(_table(asked, list(held.values())) for asked, held in by_questions.items())


def _table(asked: Asked, columns: Sequence[Answered]) -> str:
    judged = [one for one in columns if one.is_cartridge] or columns
    rows, marks = [], []
    for place, question in enumerate(asked):
        said = [_cell(one.replies[place]) for one in columns]
        rows.append([f"<td>{markup.text(cell)}</td>" for cell in question] + said)
        marks.append("all-right" if all(one.replies[place].right for one in judged) else "")
    header = ["question", "reference", *map(_title, columns)]
    whose = "a cartridge" if judged[0].is_cartridge else "a system"
    chooser = f'<label><input type="checkbox"> only questions that {whose} got wrong</label>'
    inside = chooser + markup.marked_table(header, rows, kind="wide", marks=marks)
    names = ", ".join(one.name for one in columns)
    title = f"{len(asked):,} questions about {columns[0].about}: {names}"
    return f'<div class="replies">{markup.folded(title, inside, is_open=len(asked) <= 60)}</div>'


def _title(column: Answered) -> str:
    return f"{column.name} ({sum(one.right for one in column.replies):,} right)"


def _cell(reply: Reply) -> str:
    sign, kind = ("✓", "right") if reply.right else ("✗", "wrong")
    said = markup.text(reply.reply) or '<span class="soft">nothing</span>'
    return f'<td><span class="{kind}" title="{kind}">{sign}</span> {said}</td>'
