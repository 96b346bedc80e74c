"""Tokens per second of the largest batch that fits, by what its rows read."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import lit_cartridges
from lit_cartridges.errors import CartridgesError
from lit_cartridges.reproductions.reproduction import Cell, Measured, Published, Reproduction
from lit_cartridges.reproductions.result import LEFT_OUT
from lit_cartridges.settings import Count, Range, checked

_ROOT = Path(lit_cartridges.__file__).parent.parent
_CORPUS = "corpus, a cache per row"
WAYS = (_CORPUS, "cartridge, one per row", "cartridge, one for all rows")


class Serving(Reproduction):
    """A corpus in a cache per row, a cartridge 38.6 times shorter per row, and one for all rows.

    Measured by ``benchmarks/serving.py`` of the repository: 128 tokens decoded, 3 warm-ups, mean of 5.

    Args:
        size: of the model, a Llama with random weights.
        corpus_tokens: a column each.
        memory_bytes: for keys, values and logits; all that is free on a GPU by default, 256 MiB on the CPU.
        max_rows: a batch is never larger.
    """

    name = "serving"
    paper = "arXiv 2506.06266, peak throughput"
    metric = "times the tokens per second of the corpus in a cache per row"
    form = "{:.2f}"
    x_title = "tokens of the corpus"
    published = (
        Published(
            "cartridge, one per row", "at its best", 26.4, "arXiv 2506.06266, its text; one H100, SGLang"
        ),
    )
    quick: ClassVar[dict[str, Any]] = {
        "size": "tiny",
        "corpus_tokens": (128, 512),
        "memory_bytes": 2**20,
        "max_rows": 8,
    }
    notes = (
        "Random weights: speed does not depend on what a model knows. The paper's engine holds a cache per row.",
    )

    @checked
    def __init__(
        self,
        *,
        size: Literal["tiny", "5m", "30m", "3b", "8b"] = "3b",
        corpus_tokens: Sequence[Count] = (8192, 32_768, 120_000),
        memory_bytes: Annotated[int, Range(least=1, most=2**50)] | None = None,
        max_rows: Count | None = None,
    ) -> None:
        self.size, self.corpus_tokens = size, list(corpus_tokens)
        self.limits = {"memory-bytes": memory_bytes, "max-rows": max_rows}
        if not (_ROOT / "benchmarks" / "serving.py").is_file():
            raise CartridgesError(
                "serving is measured by benchmarks/serving.py, which is not installed; use a checkout"
            )

    def cells(self) -> Sequence[Cell]:
        return [
            Cell(row=way, column=f"{tokens:,} tokens", options={"tokens": tokens}, x=tokens)
            for way in WAYS
            for tokens in self.corpus_tokens
        ]

    def measure(self, cell: Cell) -> Measured:
        """See `Reproduction.measure`; all are measured with the first."""
        start, tokens = time.perf_counter(), cell.options["tokens"]
        known = {row["way"]: row for row in self._found["throughput"] if row["corpus_tokens"] == tokens}
        own, corpus = known[cell.row], known[_CORPUS]
        if not own["rows"] or not corpus["rows"]:
            return Measured(values=(), seconds=0.0, facts={LEFT_OUT: "not even one row fits"})
        ratio = own["tokens_per_s"] / corpus["tokens_per_s"]
        error = None
        if own["deviation_per_s"] is not None and corpus["deviation_per_s"] is not None and own is not corpus:
            shares = (
                (row["deviation_per_s"] / row["tokens_per_s"]) ** 2 / row["runs"] for row in (own, corpus)
            )
            error = ratio * sqrt(sum(shares))
        return Measured(
            values=(),
            mean=ratio,
            standard_error=error,
            seconds=time.perf_counter() - start,
            num_kv_tokens=own["held_tokens"],
            kv_bytes=own["cache_bytes"],
            facts={name: own[name] for name in ("rows", "tokens_per_s", "deviation_per_s", "runs")},
        )

    @cached_property
    def _found(self) -> dict[str, Any]:
        path = self.folder / "serving.json"
        if not path.is_file():
            device = [] if self.device == "auto" else [f"--device={self.device}"]
            limits = [f"--{name}={value}" for name, value in self.limits.items() if value is not None]
            own = ["--parts", "largest", f"--size={self.size}", *limits, *device]
            lengths = ["--corpus-tokens", *map(str, self.corpus_tokens)]
            beside = path.with_name("serving_begun.json").resolve()
            program = [sys.executable, "-m", "benchmarks.serving", *own, *lengths, f"--json={beside}"]
            if status := subprocess.run(program, stdout=2, cwd=_ROOT).returncode:
                raise CartridgesError(f"benchmarks.serving, which makes {path}, ended with status {status}")
            beside.replace(path)
        found: dict[str, Any] = json.loads(path.read_text())
        return found
