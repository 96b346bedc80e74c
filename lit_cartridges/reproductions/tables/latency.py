"""Seconds of reading in one attention layer, as the cascade's paper measures them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade import cascade_prefill
from lit_cartridges.cascade.options import CascadeOptions, Cascades
from lit_cartridges.errors import SettingError
from lit_cartridges.models.random_llama import random_llama
from lit_cartridges.reproductions.kept import kept
from lit_cartridges.reproductions.reproduction import Cell, Measured, Published, Reproduction
from lit_cartridges.settings import Count, NonNegativeInt, PositiveInt, Range, checked

DENSE, SHARE = "dense (SDPA)", "÷ dense"
_LENGTH = Annotated[int, Range(least=2, most=2**21)]


class Latency(Reproduction):
    """One attention layer of Llama-3.1-8B with random weights reads a text: the cascade, and dense attention to all of it.

    Args:
        size: the layer's shape: "8b" is Llama-3.1-8B's; smaller ones are for CPUs.
        lengths: tokens read, a column each.
        positions: of the cache, behind the sinks.
        sink_tokens: of the cache.
        cascades: numbers of sub-caches, rows for each with each stride.
        strides: tokens read at once.
        repeats: timed reads, behind one that is not.
        dtype: of the layer.
    """

    name = "latency"
    paper = "arXiv 2406.17808, prefill latency"
    metric = "seconds of reading; or their share of dense attention's"
    higher_is_better = False
    x_title = "tokens read"
    published = (
        Published(
            "cascade",
            f"1,048,576 tokens, {SHARE}",
            1 / 6.8,
            "its abstract: 6.8 times faster than flash attention 2; 16,384 positions; stride and card are not said there",
        ),
    )
    notes = (
        "Errors are over repeats; the paper times one read. The layer has a norm and next to no MLP, on both sides.",
        "Dense attention is transformers' SDPA, which takes torch's flash kernel on a CUDA device in 16 bits.",
    )
    quick: ClassVar[dict[str, Any]] = {
        "size": "30m",
        "lengths": (1024, 4096, 8192),
        "positions": 512,
        "strides": (128, 512),
        "dtype": "float32",
    }

    @checked
    def __init__(
        self,
        *,
        size: Literal["tiny", "5m", "30m", "3b", "8b"] = "8b",
        lengths: Sequence[_LENGTH] = tuple(2**k for k in range(12, 21, 2)),
        positions: PositiveInt = 16384,
        sink_tokens: NonNegativeInt = 4,
        cascades: Sequence[Cascades] = (1, 4),
        strides: Sequence[PositiveInt] = (128, 1024, 4096, 16384),
        repeats: Count = 3,
        dtype: Literal["float32", "bfloat16", "float16"] = "float16",
    ) -> None:
        if not (lengths and cascades and strides):
            raise SettingError(
                "give at least one of each", lengths=lengths, cascades=cascades, strides=strides
            )
        self.size, self.lengths, self.repeats, self.dtype = (
            size,
            list(lengths),
            repeats,
            getattr(torch, dtype),
        )
        self.ways: dict[str, CascadeOptions | None] = {DENSE: None}
        for count in cascades:
            for stride in strides:
                told = f"cascade, {count} sub-cache{'s' * (count > 1)}, stride {stride:,}"
                self.ways[told] = CascadeOptions(
                    total_tokens=positions + sink_tokens,
                    sink_tokens=sink_tokens,
                    cascades=count,
                    stride_tokens=stride,
                )

    def cells(self) -> Sequence[Cell]:
        return [
            Cell(
                row=row,
                column=f"{length:,} tokens{told}",
                options={"length": length, "share": bool(told)},
                series=f"{row}{told}",
                x=length,
            )
            for told in ("", f", {SHARE}")
            for row in self.ways
            for length in self.lengths
            if not (told and row == DENSE)
        ]

    def measure(self, cell: Cell) -> Measured:
        length = cell.options["length"]
        seconds = self._seconds(cell.row, length)
        values = seconds
        if cell.options["share"]:
            values = [a / b for a, b in zip(seconds, self._seconds(DENSE, length), strict=True)]
        options = self.ways[cell.row]
        held = length if options is None else options.total_tokens
        took = 0.0 if cell.options["share"] else sum(seconds)
        return Measured(values=tuple(values), seconds=took, num_kv_tokens=held)

    def _seconds(self, row: str, length: int) -> list[float]:
        return list(
            kept(self.folder, {"row": row, "length": length}, partial(self._timed, row, length))["seconds"]
        )

    def _timed(self, row: str, length: int) -> dict[str, list[float]]:
        ids = torch.randint(0, self._layer.config.vocab_size, (1, length), device=self._layer.device)
        found = []
        for _ in range(1 + self.repeats):
            self._wait()
            start = time.perf_counter()
            self._read(ids, self.ways[row])
            self._wait()
            found.append(time.perf_counter() - start)
        return {"seconds": found[1:]}

    @torch.no_grad()
    def _read(self, ids: Tensor, options: CascadeOptions | None) -> None:
        if options is not None:
            cascade_prefill(self._layer, options.new_cache(self._layer.config), ids)
            return
        cache = DynamicCache(config=self._layer.config)
        self._layer.base_model(ids, **cache_argument(cache), use_cache=True)

    def _wait(self) -> None:
        if self._layer.device.type == "cuda":
            torch.cuda.synchronize(self._layer.device)

    @cached_property
    def _layer(self) -> Any:
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return random_llama(self.size, device=device, dtype=self.dtype, attention_layers=1)
