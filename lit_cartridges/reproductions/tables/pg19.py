"""Streaming perplexity, as of PG19's books."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from lit_cartridges.cascade.options import Cascades
from lit_cartridges.evals.systems import CASCADE, DENSE, STREAMING_LLM, TRUNCATED, StreamedKind, chosen
from lit_cartridges.reproductions.reproduction import POCKET, Cell, Measured, Published, beside
from lit_cartridges.reproductions.streamed import StreamedReproduction, percent_above, perplexity
from lit_cartridges.settings import PositiveInt, checked

_PERCENT = "% above streaming_llm"


class PG19(StreamedReproduction):
    """Streaming perplexity of long documents, such as the books of PG19, by system and size of the cache.

    Args:
        caches: positions behind the sinks, a column each. Documents of no more tokens are left out of their columns.
        cascades: sub-caches of "cascade".
        systems: rows, of "cascade", "streaming_llm" (one sub-cache), "truncated" (dense attention to the last tokens, read
            anew for every stride) and "dense", where a document fits the model.
    """

    name = "pg19"
    paper = "arXiv 2406.17808, PG19"
    metric = "perplexity over all tokens; or its percent above StreamingLLM's, in the same documents"
    published = (
        Published(
            CASCADE,
            _PERCENT,
            -0.4,
            "its abstract; PG19's test books, caches of 32,768 and 65,536 positions; no error is given",
        ),
    )
    notes = (
        "Errors are over documents. The paper counts PG19's 100 test books; yours are those that you name.",
        "The paper keeps the cache in fp16; here it has the model's dtype.",
    )
    defaults: ClassVar[dict[str, Any]] = {"model": "meta-llama/Llama-3.1-8B"}
    quick: ClassVar[dict[str, Any]] = {
        "model": POCKET,
        "caches": (256,),
        "lengths": (1024, 2048),
        "sink_tokens": 4,
        "stride_tokens": 256,
    }

    @checked
    def __init__(
        self,
        *,
        caches: Sequence[PositiveInt] = (32768, 65536),
        cascades: Cascades = 4,
        systems: Sequence[str] = (CASCADE, STREAMING_LLM, TRUNCATED, DENSE),
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.caches, self.cascades = list(caches), cascades
        self.systems = [kind.name for kind in chosen(systems, StreamedKind)]

    def cells(self) -> Sequence[Cell]:
        compared = beside(STREAMING_LLM, self.systems)
        return [
            Cell(
                row=row,
                column=f"{cache:,} of {'all' if length is None else f'{length:,}'}{told}",
                options={"cache": cache, "length": length, "percent": bool(told)},
                series=f"{row}{told}",
                x=cache,
            )
            for told, rows in (("", self.systems), (f", {_PERCENT}", compared))
            for row in rows
            for length in self.lengths
            for cache in self.caches
            if length is None or length > cache
        ]

    def measure(self, cell: Cell) -> Measured:
        cache, length = cell.options["cache"], cell.options["length"]
        options = self.options(cache, cascades=self.cascades)
        found = self.read(cell.row, options, length, more_than=cache)
        if not cell.options["percent"]:
            return replace(
                perplexity(found), num_kv_tokens=None if cell.row == DENSE else options.total_tokens
            )
        return percent_above(found, self.read(STREAMING_LLM, options, length, more_than=cache))
