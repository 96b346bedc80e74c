"""Which setting of the cascade matters, one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.systems import CASCADE
from lit_cartridges.models import load_config
from lit_cartridges.reproductions.reproduction import POCKET, Cell, Measured
from lit_cartridges.reproductions.streamed import (
    StreamedReproduction,
    above,
    perplexity,
)
from lit_cartridges.settings import PositiveInt, checked

DEFAULT, ABOVE = "as it is", "nats per token above it"


class CascadeSettings(StreamedReproduction):
    """Streaming perplexity of the cascade with one setting changed at a time; the paper has no such table at hand.

    Where sizes differ between layers, all layers together hold as much.

    Args:
        positions: behind the sinks.
        rows: names of the changes that are tried; all by default. The cascade as it is comes first in any case.
    """

    name = "cascade_settings"
    paper = "arXiv 2406.17808 (not a table of it)"
    metric = (
        "perplexity over all tokens; or nats per token above the cascade's as it is, in the same documents"
    )
    defaults: ClassVar[dict[str, Any]] = {"sink_tokens": 4, "stride_tokens": 512}
    quick: ClassVar[dict[str, Any]] = {
        "model": POCKET,
        "positions": 256,
        "lengths": (1024,),
        "stride_tokens": 256,
        "rows": ("1 sub-cache (StreamingLLM)", "first third of the layers: half as many"),
    }

    @checked
    def __init__(
        self, *, positions: PositiveInt = 512, rows: Sequence[str] | None = None, **more: Any
    ) -> None:
        super().__init__(**more)
        self.positions = positions
        chosen = [DEFAULT, *(self.changes if rows is None else rows)]
        if unknown := [row for row in chosen if row not in self.changes]:
            raise SettingError(
                f"holds {unknown[0]!r}; there are {', '.join(self.changes)}", rows=list(rows or ())
            )
        self.rows = dict.fromkeys(chosen)

    @cached_property
    def changes(self) -> Mapping[str, CascadeOptions]:
        """By row."""
        own, layers = (
            self.options(self.positions),
            load_config(self.model_name).get_text_config().num_hidden_layers,
        )
        third = -(-layers // 3)
        half = self.positions // 2
        more = self.positions + (self.positions - half) * third // max(1, layers - third)
        few, many = half + self.sink_tokens, more + self.sink_tokens

        def first(setting: str, few: int, many: int) -> CascadeOptions:
            return replace(own, per_layer={setting: [few] * third + [many] * (layers - third)})

        def last(setting: str, few: int, many: int) -> CascadeOptions:
            return replace(own, per_layer={setting: [many] * (layers - third) + [few] * third})

        return {
            DEFAULT: own,
            "1 sub-cache (StreamingLLM)": replace(own, cascades=1),
            "2 sub-caches": replace(own, cascades=2),
            "8 sub-caches": replace(own, cascades=8),
            "mean over query heads": replace(own, head_reduction="mean"),
            "median over query heads": replace(own, head_reduction="median"),
            "one set of tokens per layer": replace(own, shared_heads=True),
            "an eighth as sinks": own.keeping(own.total_tokens // 8),
            "first third of the layers: 1 sub-cache": first("cascades", 1, own.cascades),
            "last third of the layers: 1 sub-cache": last("cascades", 1, own.cascades),
            "first third of the layers: half as many": first("total_tokens", few, many),
            "last third of the layers: half as many": last("total_tokens", few, many),
            "StreamingLLM, first third of the layers: half as many": replace(
                first("total_tokens", few, many), cascades=1
            ),
        }

    def cells(self) -> Sequence[Cell]:
        return [
            Cell(
                row=row,
                column=f"{'all tokens' if length is None else f'{length:,} tokens'}{told}",
                options={"length": length, "above": bool(told)},
            )
            for row in self.rows
            for length in self.lengths
            for told in (("",) if row == DEFAULT else ("", f", {ABOVE}"))
        ]

    def measure(self, cell: Cell) -> Measured:
        length = cell.options["length"]
        found, base = (
            self.read(CASCADE, self.changes[row], length, more_than=self.positions)
            for row in (cell.row, DEFAULT)
        )
        return above(found, base) if cell.options["above"] else perplexity(found)
