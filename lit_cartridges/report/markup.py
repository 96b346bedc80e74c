"""Pieces of HTML. Whatever comes from a file goes through `text`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from lit_cartridges.terminal import printable


def text(value: object) -> str:
    """Text of others, which stays text: no markup, no control characters, no override of the reading direction."""
    return escape(printable(value))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "numbers") -> str:
    """Of plain texts, in a box of its own that scrolls."""
    return marked_table(header, ([f"<td>{text(cell)}</td>" for cell in row] for row in rows), kind=kind)


def marked_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str, marks: Sequence[str] = ()
) -> str:
    """The same of cells that are HTML already.

    Args:
        kind: "numbers", or "wide" for columns of sentences.
        marks: a class per row.
    """
    head = "".join(f"<th>{text(name)}</th>" for name in header)
    lines = []
    for place, row in enumerate(rows):
        mark = f' class="{marks[place]}"' if marks and marks[place] else ""
        lines.append(f"<tr{mark}>{''.join(row)}</tr>")
    return (
        f'<div class="box" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def tiles(facts: Mapping[str, str]) -> str:
    """Labels and values."""
    inside = "".join(
        f"<div><dt>{text(label)}</dt><dd>{text(value)}</dd></div>" for label, value in facts.items()
    )
    return f'<dl class="tiles">{inside}</dl>' if facts else ""


def folded(title: str, content: str, *, is_open: bool = False) -> str:
    """What is seen once its title is touched."""
    return (
        f"<details{' open' if is_open else ''}><summary>{text(title)}</summary>{content}</details>"
        if content
        else ""
    )


def section(title: str, *content: str) -> str:
    """A heading and what stands under it; nothing where that is nothing."""
    inside = "".join(content)
    return f"<section><h2>{text(title)}</h2>{inside}</section>" if inside else ""


def plot(figure: str | None) -> str:
    """A figure's JSON, which no sign in it can end, and the place where it is drawn."""
    if figure is None:
        return ""
    held = figure.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f'<div class="plot"><script type="application/json">{held}</script><div></div></div>'
