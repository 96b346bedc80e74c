"""``result.json``: what a run found, as anyone may submit it to a leaderboard."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lit_cartridges.errors import CartridgesError
from lit_cartridges.files.content import one_line, parse_json, record
from lit_cartridges.reproductions.reproduction import Published
from lit_cartridges.runs.atomic_files import write_atomically

RESULT = "result.json"
LEFT_OUT = "left_out"  # of `Figure.facts`: why there is no figure
_MOST_BYTES = 1 << 24


class ResultFileError(CartridgesError, ValueError):
    """A file that is no result of ``lit-cartridges reproduce``; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One cell's figure; arguments as for `Cell` and `Measured`. ``mean`` is None where the cell was left out."""

    row: str
    column: str
    mean: float | None
    standard_error: float | None
    num_questions: int
    seconds: float
    num_kv_tokens: int | None = None
    kv_bytes: int | None = None
    series: str = ""
    x: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The content of the file.

    Args:
        table: its name; the other fields of a `Reproduction` likewise.
        model: the frozen model's name.
        versions: of the packages that decide the figures.
        device: in words.
        figures: of all cells, in the table's order.
    """

    table: str
    paper: str
    metric: str
    higher_is_better: bool
    model: str
    quick: bool
    settings: dict[str, Any]
    versions: dict[str, str]
    device: str
    figures: tuple[Figure, ...]
    published: tuple[Published, ...] = ()

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        write_atomically(path, (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Result:
        """
        Raises:
            ResultFileError: it cannot be read, is damaged, or holds something else.
        """
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ValueError(f"it is longer than {_MOST_BYTES:,} bytes")
            found = record(cls, parse_json(path.read_bytes()), "it")
            for one in found.figures:
                _require_sensible(one)
            return found
        except (OSError, ValueError) as error:
            raise ResultFileError(
                f"{path} is no result of `lit-cartridges reproduce`: {one_line(error)}"
            ) from error


def _require_sensible(one: Figure) -> None:
    numbers = (one.mean, one.standard_error, one.seconds, one.x)
    if not all(number is None or math.isfinite(number) for number in numbers):
        raise ValueError(f"{one.row}, {one.column}: a number is not finite")
    if (one.standard_error or 0) < 0 or one.seconds < 0:
        raise ValueError(f"{one.row}, {one.column}: standard_error or seconds is below 0")


def versions() -> dict[str, str]:
    """Of what decides the figures."""
    found = {"python": platform.python_version()}
    for name in ("lit_cartridges", "torch", "transformers", "lightning", "sacrebleu"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_in_words(device: str) -> str:
    """The accelerator's name, or the processor's kind."""
    on_card = torch.cuda.is_available() and device != "cpu"
    return str(torch.cuda.get_device_name()) if on_card else f"CPU ({platform.machine()})"
