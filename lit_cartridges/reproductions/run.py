"""Measures a table's cells, each once, and writes what they come to."""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_cartridges.errors import SettingError
from lit_cartridges.evals.systems import ContextTooLong
from lit_cartridges.files.content import one_line, parse_json, record
from lit_cartridges.reproductions.drawing import plot
from lit_cartridges.reproductions.page import page
from lit_cartridges.reproductions.reproduction import Cell, Measured, Reproduction
from lit_cartridges.reproductions.result import LEFT_OUT, RESULT, Figure, Result, device_in_words, versions
from lit_cartridges.runs.atomic_files import write_atomically
from lit_cartridges.runs.steady_bar import SteadyBar
from lit_cartridges.terminal import printable_line

CELLS, SETTINGS = "cells", "settings.json"


def reproduce(table: Reproduction, folder: Path, *, quick: bool = False, device: str = "auto") -> Result:
    """Measure what is not yet measured, and write ``result.json``, ``table.md`` and ``plot.svg``.

    Raises:
        SettingError: the folder holds a run with other settings, or of another table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _require_same_settings(folder, {"table": table.name, "device": device, **table.settings})
    (folder / CELLS).mkdir(exist_ok=True)
    table.folder, table.device = folder, device
    cells = table.cells()
    places = [folder / CELLS / _file_name(cell) for cell in cells]
    if len(set(places)) < len(places):
        raise ValueError(f"{table.name}: two of its cells share a row and a column")
    figures = []
    with SteadyBar(total=len(cells), unit="cell") as bar:
        for cell, place in zip(cells, places, strict=True):
            bar.set_description(printable_line(f"{cell.row}, {cell.column}"))
            figures.append(_figure(cell, _known(place) or _measured(table, cell, place)))
            bar.update()
    result = Result(
        table=table.name,
        paper=table.paper,
        metric=table.metric,
        higher_is_better=table.higher_is_better,
        model=str(table.settings.get("model") or ""),
        quick=quick,
        settings=table.settings,
        versions=versions(),
        device=device_in_words(device),
        figures=tuple(figures),
        published=table.published,
    )
    result.write(folder / RESULT)
    write_atomically(folder / "table.md", page(result, form=table.form, notes=table.notes).encode())
    write_atomically(folder / "plot.svg", plot(result, x_title=table.x_title).encode())
    return result


def _measured(table: Reproduction, cell: Cell, place: Path) -> Measured:
    start = time.perf_counter()
    try:
        found = table.measure(cell)
    except ContextTooLong as error:
        found = Measured(values=(), seconds=time.perf_counter() - start, facts={LEFT_OUT: one_line(error)})
    write_atomically(place, (json.dumps(asdict(found)) + "\n").encode())
    return found


def _known(place: Path) -> Measured | None:
    """A cell of an earlier run; one whose file is damaged is measured again."""
    try:
        return record(Measured, parse_json(place.read_bytes()), "it")
    except (OSError, ValueError):
        return None


def _figure(cell: Cell, found: Measured) -> Figure:
    value = found.figure()
    return Figure(
        row=cell.row,
        column=cell.column,
        mean=value.mean,
        standard_error=value.standard_error,
        num_questions=len(found.values),
        seconds=found.seconds,
        num_kv_tokens=found.num_kv_tokens,
        kv_bytes=found.kv_bytes,
        series=cell.series,
        x=cell.x,
        facts=found.facts,
    )


def _file_name(cell: Cell) -> str:
    name = f"{cell.row}\n{cell.column}"
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:60]
    return f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"


def _require_same_settings(folder: Path, now: dict[str, Any]) -> None:
    """Those of the cells that are there; where none is, the settings are these."""
    file = folder / SETTINGS
    now = json.loads(json.dumps(now))
    if not (file.is_file() and any((folder / CELLS).glob("*.json"))):
        write_atomically(file, (json.dumps(now, indent=1) + "\n").encode())
        return
    then = parse_json(file.read_bytes())
    changed = [key for key in {**then, **now} if then.get(key, ...) != now.get(key, ...)]
    if changed:
        told = ", ".join(f"{key} was {then.get(key)!r} and is {now.get(key)!r}" for key in changed)
        raise SettingError(
            f"holds a run with other settings ({one_line(told)}); give another folder, or remove this one",
            folder=folder,
        )
