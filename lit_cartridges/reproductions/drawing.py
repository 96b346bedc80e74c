"""Plots as SVG, which a browser and a Markdown page show without a script. All texts are escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from lit_cartridges.reproductions.result import Figure, Result
from lit_cartridges.terminal import printable_line

_COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#06b6d4", "#ec4899", "#84cc16")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 340, 64, 44, 30, 16
_GREY, _LINE = "#6b7280", 16
_MOST_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True)
class Point:
    """``x`` is None where it has no place of its own: it is then drawn at its order's."""

    x: float | None
    y: float
    error: float | None
    name: str
    series: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot of several, below each other.

    Args:
        front: names of points that a line joins, from left to right.
    """

    title: str
    x_title: str
    points: Sequence[Point]
    front: Sequence[str] = field(default=())


def plot(result: Result, *, x_title: str) -> str:
    """A panel per column; where cells have places of their own, one for all columns."""
    known = [one for one in result.figures if one.mean is not None]
    places = any(one.x is not None for one in known)
    titles = [""] if places else list(dict.fromkeys(one.column for one in known))
    panels = [
        Panel(
            title=f"{result.table}: {title or result.metric}",
            x_title=x_title,
            points=[as_point(one) for one in known if places or one.column == title],
        )
        for title in titles
    ]
    return svg(panels)


def as_point(one: Figure, *, name: str = "", series: str = "") -> Point:
    """A figure in a plot: its own place, or its bytes."""
    place = float(one.kv_bytes) if one.x is None and one.kv_bytes is not None else one.x
    error = one.standard_error
    name, series = name or f"{one.row}, {one.column}", series or one.series or one.row
    return Point(x=place, y=float(one.mean or 0), error=error, name=name, series=series)


def svg(panels: Sequence[Panel]) -> str:
    """All panels, with a legend of series below each."""
    parts, top = [], 0.0
    for panel in panels:
        drawn, height = _panel(panel)
        parts.append(f'<g transform="translate(0,{top:g})">{drawn}</g>')
        top += height
    size = f'width="{_WIDTH}" height="{top:g}" viewBox="0 0 {_WIDTH} {top:g}"'
    font = 'font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>{"".join(parts)}</svg>\n'


def _panel(panel: Panel) -> tuple[str, float]:
    xs, ticks, log = _places(panel.points)
    lows = [p.y - (p.error or 0) for p in panel.points] or [0.0]
    highs = [p.y + (p.error or 0) for p in panel.points] or [1.0]
    low, high = min(lows), max(highs)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    first, last = (min(xs), max(xs)) if xs else (0.0, 1.0)
    span = (last - first) or 1.0

    def at_x(x: float) -> float:
        return _LEFT + 12 + (x - first) / span * (_WIDTH - _LEFT - _RIGHT - 24)

    def at_y(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _BOTTOM - _TOP)

    out = [_text(_LEFT, 18, panel.title, weight="bold")]
    for step in range(5):
        y = low + (high - low) * step / 4
        out.append(_stroke([(_LEFT, at_y(y)), (_WIDTH - _RIGHT, at_y(y))], "#9ca3af55"))
        out.append(_text(_LEFT - 6, at_y(y) + 4, f"{y:.4g}", anchor="end"))
    for x, told in ticks:
        out.append(_text(at_x(x), _HEIGHT - _BOTTOM + 18, told, anchor="middle"))
    axis = panel.x_title + (", logarithmic" if log else "")
    out.append(_text(_WIDTH / 2, _HEIGHT - 8, axis if ticks else "", anchor="middle"))
    series = list(dict.fromkeys(p.series for p in panel.points))
    placed = [(at_x(x), at_y(p.y), p) for x, p in zip(xs, panel.points, strict=True)]
    on_front = [(x, y) for name in panel.front for x, y, p in placed if p.name == name]
    if on_front:
        out.append(_stroke(on_front, _GREY, dash=True))
    for number, name in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        own = sorted(((x, y, p) for x, y, p in placed if p.series == name), key=lambda one: one[0])
        if not panel.front and ticks:
            out.append(_stroke([(x, y) for x, y, _ in own], colour))
        for x, y, p in own:
            if p.error:
                out.append(_stroke([(x, at_y(p.y - p.error)), (x, at_y(p.y + p.error))], colour))
            told = f"{p.name}: {p.y:.4g}" + (f" ± {p.error:.2g}" if p.error else "")
            out.append(
                f'<circle cx="{x:g}" cy="{y:g}" r="4.5" fill="{colour}"><title>{_safe(told)}</title></circle>'
            )
        below = _HEIGHT + _LINE * (number + 1) - 4
        out.append(f'<circle cx="{_LEFT}" cy="{below - 4:g}" r="4.5" fill="{colour}"/>')
        out.append(_text(_LEFT + 12, below, name))
    return "".join(out), _HEIGHT + _LINE * (len(series) + 1)


def _places(points: Sequence[Point]) -> tuple[list[float], list[tuple[float, str]], bool]:
    """Where points stand, the axis's ticks, and whether it is logarithmic, as it is over more than a factor of ten."""
    known = [p.x for p in points if p.x is not None]
    if len(known) < len(points) or not known:
        return [float(i) for i in range(len(points))], [], False
    above = [x for x in known if x > 0]
    log = len(above) > 1 and max(above) > 10 * min(above) and min(known) >= 0
    if not log:
        return known, [(x, f"{x:.4g}") for x in sorted({min(known), max(known)})], False
    least, most = math.log10(min(above)), math.log10(max(above))
    # Nothing at all has no logarithm: it stands a step to the left of the least.
    gap = max(0.3, (most - least) / 8)
    ticks = [(float(n), f"1e{n}") for n in range(math.ceil(least), math.floor(most) + 1)]
    ticks += [(least - gap, "0")] if min(known) == 0 else []
    return [math.log10(x) if x > 0 else least - gap for x in known], ticks, True


def _stroke(points: Sequence[tuple[float, float]], colour: str, *, dash: bool = False) -> str:
    places = " ".join(f"{x:g},{y:g}" for x, y in points)
    dashed = ' stroke-dasharray="5 4"' if dash else ""
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"{dashed}/>'


def _text(x: float, y: float, told: str, *, anchor: str = "start", weight: str = "normal") -> str:
    where = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text {where} fill="{_GREY}">{_safe(told)}</text>'


def _safe(told: str) -> str:
    line = printable_line(told)
    return escape(line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…")
