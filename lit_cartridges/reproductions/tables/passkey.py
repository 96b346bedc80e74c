"""Passkey retrieval by length, as the cascade's paper measures it."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import cached_property, partial
from statistics import fmean
from typing import Any, ClassVar

from lit_cartridges.cascade.options import CascadeOptions, Cascades
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.passkey import passkey_cell
from lit_cartridges.evals.systems import CASCADE, STREAMING_LLM, TRUNCATED_ICL, AskedKind, chosen
from lit_cartridges.evals.tasks.word_passkey import WordPasskey
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.reproductions.kept import kept
from lit_cartridges.reproductions.reproduction import SMOLLM2, Cell, Measured, Published, Reproduction, beside
from lit_cartridges.settings import (
    Count,
    DTypeName,
    NonNegativeInt,
    PositiveInt,
    ReadFile,
    Seed,
    checked,
)

_POINTS = "points above streaming_llm"
_FIFTHS = 5


class PasskeyTable(Reproduction):
    """A key of five digits that random words hide, by the text's length and the key's depth.

    Args:
        model: the frozen model by its Hub id, folder, or ``package:NAME/FOLDER``.
        words: a word a line, such as Debian's /usr/share/dict/words; those of the package wonderwords by default.
        lengths: of the texts, in tokens.
        positions: of the cache, behind the sinks.
        cascades: sub-caches of "cascade".
        sink_tokens, stride_tokens: of both caches.
        systems: rows, of "cascade", "streaming_llm", "icl", "truncated_icl".
        max_context_tokens: positions that icl and truncated_icl may use, if fewer than the model has.
        samples: texts per length and fifth of the depth, the same for all systems.
        max_new_tokens: length at which a reply is cut.
        seed: of the texts.
        dtype: of the model.
    """

    name = "passkey"
    paper = "arXiv 2406.17808, passkey retrieval"
    metric = "right digits in percent; or points above StreamingLLM's, on the same texts"
    form = "{:.1f}"
    x_title = "tokens"
    published = (
        Published(
            CASCADE,
            f"1,048,576 tokens, {_POINTS}",
            24.0,
            "its abstract; 32,768 positions in 8 sub-caches, strides of 4,096, over the linear baselines",
        ),
    )
    notes = (
        "The key's depth is uniform in each fifth of the text; a digit counts at its own place; errors are over texts.",
        "The paper writes raw chat text of Llama 3.1; here the text is the system message of the model's own template.",
    )
    quick: ClassVar[dict[str, Any]] = {
        "model": SMOLLM2,
        "lengths": (256, 768),
        "positions": 256,
        "cascades": 4,
        "sink_tokens": 4,
        "stride_tokens": 256,
        "max_context_tokens": 512,
        "samples": 1,
        "max_new_tokens": 12,
    }

    @checked
    def __init__(
        self,
        *,
        model: str = "meta-llama/Llama-3.1-8B-Instruct",
        words: ReadFile | None = None,
        lengths: Sequence[PositiveInt] = tuple(2**k for k in range(15, 21)),
        positions: PositiveInt = 32768,
        cascades: Cascades = 8,
        sink_tokens: NonNegativeInt = 64,
        stride_tokens: PositiveInt = 4096,
        systems: Sequence[str] = (CASCADE, STREAMING_LLM, TRUNCATED_ICL),
        max_context_tokens: PositiveInt | None = None,
        samples: Count = 20,
        max_new_tokens: PositiveInt = 50,
        seed: Seed = 0,
        dtype: DTypeName = "auto",
    ) -> None:
        self.systems = [kind.name for kind in chosen(systems, AskedKind)]
        self.language = WordPasskey(words=words)
        self.lengths, self.samples, self.seed = list(lengths), samples, seed
        self.model_name, self.dtype, self.max_new_tokens = model, dtype, max_new_tokens
        self.max_context_tokens = max_context_tokens
        self.options = CascadeOptions(
            total_tokens=positions + sink_tokens,
            cascades=cascades,
            sink_tokens=sink_tokens,
            stride_tokens=stride_tokens,
        )

    def cells(self) -> Sequence[Cell]:
        compared = beside(STREAMING_LLM, self.systems)
        return [
            Cell(
                row=row,
                column=f"{length:,} tokens{told}",
                options={"length": length, "points": bool(told)},
                series=f"{row}{told}",
                x=length,
            )
            for told, rows in (("", self.systems), (f", {_POINTS}", compared))
            for row in rows
            for length in self.lengths
        ]

    def measure(self, cell: Cell) -> Measured:
        length = cell.options["length"]
        texts = self._texts(cell.row, length)
        values = [100 * text["per_digit"] for text in texts]
        if cell.options["points"]:
            values = [
                a - 100 * b["per_digit"]
                for a, b in zip(values, self._texts(STREAMING_LLM, length), strict=True)
            ]
        fifths = {f"{20 * i}-{20 * i + 20}%": fmean(values[i::_FIFTHS]) for i in range(_FIFTHS)}
        return Measured(
            values=tuple(values),
            seconds=0.0 if cell.options["points"] else sum(text["seconds"] for text in texts),
            num_kv_tokens=self.options.total_tokens if cell.row in (CASCADE, STREAMING_LLM) else None,
            facts={"by_depth": fifths},
        )

    def _texts(self, system: str, length: int) -> list[dict[str, float]]:
        """Each text's share of right digits, and the seconds that it took; the fifths of the depth in turn."""
        found = []
        for number in range(_FIFTHS * self.samples):
            rng = random.Random(f"{self.seed} {length} {number}")
            depth = (number % _FIFTHS + rng.random()) / _FIFTHS
            known = {"system": system, "length": length, "text": number}
            found.append(kept(self.folder, known, partial(self._asked, system, length, depth, number)))
        return found

    def _asked(self, system: str, length: int, depth: float, number: int) -> dict[str, float]:
        start = time.perf_counter()
        found = passkey_cell(
            self._model,
            self._renderer,
            system,
            self.language,
            self.options,
            num_tokens=length,
            depth=depth,
            samples=1,
            max_new_tokens=self.max_new_tokens,
            max_context_tokens=self.max_context_tokens,
            first_seed=self.seed * 1_000_000 + number,
        )
        return {"per_digit": found.per_digit, "seconds": time.perf_counter() - start}

    @cached_property
    def _model(self) -> Any:
        return load_model(self.model_name, dtype=self.dtype, device=self.device)

    @cached_property
    def _renderer(self) -> ChatRenderer:
        return ChatRenderer(load_tokenizer(self.model_name))
