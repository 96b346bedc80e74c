"""The plots, as plotly figures in JSON. Colours of text and lines are the page's (``page.js``), which knows light from dark.

Plotly reads a little HTML in texts, so what others wrote is escaped for it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from lit_cartridges.report.corpus_parts import CorpusPart
from lit_cartridges.report.facts import Curve, Row
from lit_cartridges.terminal import printable_line

_COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#06b6d4", "#ec4899", "#84cc16")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
_GOOD_TO_BAD = ((16, 185, 129), (245, 158, 11), (239, 68, 68))
_HOVER_CHARACTERS, _HOVER_LINES = 44, 8


def shown(text: object) -> str:
    """Text of others in a plot, on one line."""
    return escape(printable_line(text), quote=False)


def accuracy_against_compression(rows: Sequence[tuple[str, Row]]) -> str | None:
    """Systems that read a cache, by what they are about or as series; what reads nothing is a dotted line. None where no
    compression is known.

    Args:
        rows: with the name that each has in the table.
    """
    points = [(name, row) for name, row in rows if row.compression is not None]
    if not points:
        return None
    figure = go.Figure()
    groups = list(dict.fromkeys((row.about, row.series) for _, row in points))
    for place, (about, series) in enumerate(groups):
        own = [(name, row) for name, row in points if (row.about, row.series) == (about, series)]
        figure.add_scatter(
            x=[row.compression for _, row in own],
            y=[row.accuracy for _, row in own],
            error_y={"array": [row.accuracy_standard_error or 0.0 for _, row in own], "thickness": 1},
            mode="lines+markers" if series else "markers",
            line={"color": _colour(place), "width": 1.5},
            cliponaxis=False,
            marker={"size": 11, "symbol": _MARKERS[place % len(_MARKERS)], "color": _colour(place)},
            name=shown(series or about),
            hovertext=[_point(name, row) for name, row in own],
            hoverinfo="text",
        )
        nothing = [row.accuracy for _, row in rows if row.about == about and not row.num_kv_tokens]
        if nothing:
            ends = [row.compression or 1.0 for _, row in points]
            figure.add_scatter(
                x=[min(ends), max(ends)],
                y=[nothing[0]] * 2,
                mode="lines",
                line={"dash": "dot", "width": 1.5, "color": _colour(place)},
                name=f"{shown(about)}: without it",
                hovertext=[f"no context: {nothing[0]:.3f}"] * 2,
                hoverinfo="text",
            )
    ticks = [1, 2, 5, 10, 20, 40, 100, 200, 400, 1000]
    figure.update_xaxes(type="log", title="compression", tickvals=ticks, ticktext=[f"{t}×" for t in ticks])
    figure.update_yaxes(title="accuracy", range=[-0.03, 1.06])
    return _json(figure)


def over_steps(curves: Sequence[tuple[str, Curve]], *, title: str, share: bool = False) -> str | None:
    """Lines over optimizer steps, with a band of a standard error where there is one; None where there is no line."""
    if all(len(curve.steps) < 2 for _, curve in curves):
        return None
    figure = go.Figure()
    for place, (name, curve) in enumerate(curves):
        if curve.errors is not None and any(curve.errors):
            above = [v + e for v, e in zip(curve.values, curve.errors, strict=True)]
            below = [v - e for v, e in zip(curve.values, curve.errors, strict=True)]
            figure.add_scatter(
                x=[*curve.steps, *reversed(curve.steps)],
                y=[*above, *reversed(below)],
                mode="lines",
                fill="toself",
                fillcolor=f"{_colour(place)}26",
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=str(place),
            )
        figure.add_scatter(
            x=list(curve.steps),
            y=list(curve.values),
            mode="lines+markers" if len(curve.steps) < 30 else "lines",
            line={"color": _colour(place), "width": 2},
            name=shown(name),
            legendgroup=str(place),
            hovertext=[
                f"{shown(name)}<br>step {s:,.0f}: {v:.4g}"
                for s, v in zip(curve.steps, curve.values, strict=True)
            ],
            hoverinfo="text",
        )
    figure.update_xaxes(title="optimizer steps", rangemode="tozero")
    figure.update_yaxes(title=title, **({"range": [-0.03, 1.06]} if share else {"rangemode": "tozero"}))
    return _json(figure)


def over_corpus(parts: Sequence[CorpusPart]) -> str | None:
    """A bar per part of the corpus: the cartridge's loss where it was scored, else how many conversations are about it."""
    if not parts:
        return None
    scored = any(part.loss is not None for part in parts)
    bars = [(part, part.loss if scored else part.num_conversations) for part in parts]
    bars = [(part, height) for part, height in bars if height]
    shade_of = shades(parts)
    figure = go.Figure()
    figure.add_bar(
        x=[_middle(part) for part, _ in bars],
        width=[part.num_tokens for part, _ in bars],
        y=[height for _, height in bars],
        marker={"color": [shade_of(part) for part, _ in bars]},
        hovertext=[_part(part) for part, _ in bars],
        hoverinfo="text",
        showlegend=False,
    )
    if empty := [part for part in parts if not part.num_conversations]:
        figure.add_scatter(
            x=[_middle(part) for part in empty],
            y=[0] * len(empty),
            mode="markers",
            marker={"symbol": "x", "size": 8, "color": "#ef4444"},
            cliponaxis=False,
            name="no conversation is about this part",
            hovertext=[_part(part) for part in empty],
            hoverinfo="text",
        )
    figure.update_xaxes(title="tokens of the corpus")
    figure.update_yaxes(title="nats per answer token" if scored else "conversations", rangemode="tozero")
    figure.update_layout(bargap=0)
    return _json(figure, height=300)


def shades(parts: Sequence[CorpusPart]) -> Callable[[CorpusPart], str]:
    """A part's colour: green where the loss is low, or many conversations are about it, over amber to red; grey without."""
    losses = [part.loss for part in parts if part.loss is not None]
    highest = max(losses or [part.num_conversations for part in parts], default=0) or 1

    def shade(part: CorpusPart) -> str:
        value = part.loss if losses else highest - part.num_conversations
        if value is None:
            return "rgb(128,128,128)"
        place = 2 * min(1.0, max(0.0, value / highest))
        start = min(1, int(place))
        pairs = zip(_GOOD_TO_BAD[start], _GOOD_TO_BAD[start + 1], strict=True)
        return "rgb({},{},{})".format(*(round(a + (b - a) * (place - start)) for a, b in pairs))

    return shade


def _middle(part: CorpusPart) -> float:
    return part.start_token + part.num_tokens / 2


def _part(part: CorpusPart) -> str:
    loss = "" if part.loss is None else f"<b>{part.loss:.3f} nats per token</b><br>"
    where = f"tokens {part.start_token:,} to {part.start_token + part.num_tokens - 1:,}"
    lines = textwrap.wrap(
        printable_line(part.text), _HOVER_CHARACTERS, max_lines=_HOVER_LINES, placeholder=" …"
    )
    text = "<br>".join(escape(line, quote=False) for line in lines)
    return f"{loss}{where}, {part.num_conversations} conversations<br>{text}"


def _point(name: str, row: Row) -> str:
    error = "" if row.accuracy_standard_error is None else f" ± {row.accuracy_standard_error:.3f}"
    told = f"<b>{shown(name)}</b><br>{row.accuracy:.3f}{error}<br>{row.num_kv_tokens:,} positions"
    return f"{told}, {row.compression:.1f}×<br>{shown(row.about)}"


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]


def _json(figure: Any, *, height: int = 380) -> str:
    figure.update_xaxes(title_standoff=6, automargin=True)
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 56, "r": 12, "t": 12, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0, "font": {"size": 13}},
        hovermode="closest",
        dragmode=False,
    )
    return str(figure.to_json())
