"""The figures of `gpu_figures` as Markdown, and a page that holds them between two markers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import _common as common
from benchmarks._gpu_part import heading, shown
from lit_cartridges.terminal import printable_line

BEGIN, END = "<!-- figures: written by benchmarks.gpu_figures -->", "<!-- end of the figures -->"
_OPTIONAL = ("datasheet_share", "products_share", "wanted_times", "wanted_share")


def tables(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Of each part, a table for the rows of each kind, which have the same figures; then what is missing."""
    for part, found in results.items():
        title = f"**{part}**, {found['seconds']:.0f} s"
        kinds: dict[tuple[str, ...], list[str]] = {}
        for name, row in found["rows"].items():
            keys = tuple(key for key in row if key not in _OPTIONAL or row[key] is not None)
            kinds.setdefault(keys, []).append(name)
        if not kinds:
            yield f"{title}: nothing measured.\n"
        for keys, names in kinds.items():
            rows = [(name, *(shown(key, found["rows"][name][key]) for key in keys)) for name in names]
            yield common.table(title, ("", *(heading(key) for key in keys)), rows)
            title = f"**{part}**, further"
        if found["missing"]:
            lines = [printable_line(f"- {name}: {why}") for name, why in found["missing"].items()]
            yield "\n".join(["Not measured:\n", *lines]) + "\n"


def fill(page: Path, figures: Mapping[str, Any]) -> None:
    """Put them between the page's markers.

    Raises:
        ValueError: the figures are of tiny sizes, which say nothing; or the page has no markers.
    """
    if figures["tiny"]:
        raise ValueError(
            "these figures are of tiny sizes, which say that the script runs and nothing else; a card is needed"
        )
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no lines {BEGIN} and {END} to put the figures between")
    versions = " · ".join(f"{name} {version}" for name, version in figures["versions"].items() if version)
    headline = f"One {figures['device']} · {versions} · {figures['seconds']:.0f} s in all\n"
    page.write_text(before + "\n".join([begin, "", headline, *tables(figures["results"]), END]) + after)
