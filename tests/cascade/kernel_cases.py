"""Calls of the cascade's attention, for the Triton kernels and the plain path to agree on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cartridges.attention.extras import AttentionExtras
from lit_cartridges.cascade.chunk_attention import ChunkLayout


@dataclass(frozen=True, kw_only=True)
class Case:
    """R rows, KV key heads with G query heads each, q queries behind ``held`` columns, keys D and values V wide.

    Row r holds ``unused`` · r columns fewer, and its chunk begins with ``padding`` · r padded tokens.
    """

    R: int = 1
    KV: int = 2
    G: int = 2
    q: int = 20
    held: int = 37
    D: int = 64
    V: int = 64
    dtype: torch.dtype = torch.float32
    unused: int = 0
    padding: int = 0
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    ema: float = 0.9
    splits: int | None = None

    def layout(self) -> ChunkLayout:
        rows = torch.arange(self.R)
        stored = (self.held - self.unused * rows).clamp(min=0)
        real = torch.arange(self.q) >= (self.padding * rows)[:, None]
        rank = (real.cumsum(1) - 1).clamp(min=0)
        weights = torch.where(real, self.ema ** (real.sum(1, keepdim=True) - 1 - rank).double(), 0.0)
        positions = stored[:, None] + rank
        return ChunkLayout(
            held=self.held,
            stored=stored if self.unused else None,
            positions=positions,
            real=real if self.padding else None,
            weights=weights.float(),
            limit=int(positions.max()) + 1,
        )

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, the query with its heads behind its tokens in memory, as models hand it down."""
        generator = torch.Generator().manual_seed(self.q * 100 + self.held)
        R, KV, q, m = self.R, self.KV, self.q, self.held + self.q
        query = torch.randn(R, q, KV * self.G, self.D, generator=generator).transpose(1, 2)
        key = torch.randn(R, KV, m, self.D, generator=generator)
        value = torch.randn(R, KV, m, self.V, generator=generator)
        return query.to(self.dtype), key.to(self.dtype), value.to(self.dtype)

    def options(self) -> dict:
        """The keywords of `attend`, on the CPU."""
        sinks = torch.linspace(-1, 3, self.KV * self.G) if self.sinks else None
        extras = AttentionExtras(self.softcap, sinks)
        return {
            "layout": self.layout(),
            "scale": self.D**-0.5 * 1.5,
            "window": self.window,
            "extras": extras,
        }


CASES = {
    "heads of 64": Case(),
    "heads of 80, no groups, keys split": Case(D=80, V=80, G=1, splits=3),
    "heads of 96, one key head": Case(D=96, V=96, KV=1, G=4, q=18, held=5),
    "heads of 128, three per key head": Case(D=128, V=128, KV=1, G=3, q=17, held=16),
    "values of another width": Case(D=16, V=24),
    "nothing held": Case(held=0, q=35),
    "one query": Case(q=1, held=50, D=128, V=128, G=4, splits=4),
    "one query and nothing held": Case(q=1, held=0),
    "tiles that fit": Case(q=32, held=48),
    "rows of unequal length": Case(R=3, KV=1, unused=13, padding=4),
    "a row that holds nothing": Case(R=2, KV=1, unused=37, padding=9),
    "a row of padding alone": Case(R=2, KV=1, unused=37, padding=20),
    "a window inside the stride": Case(window=9),
    "a window over held tokens": Case(R=2, KV=1, q=18, window=30, unused=5, padding=3, splits=2),
    "a window narrower than a tile": Case(R=2, KV=1, held=50, window=5, unused=20, padding=3),
    "a window that hides nothing": Case(window=57),
    "soft-capped": Case(softcap=1.5),
    "with sinks": Case(sinks=True, splits=2),
    "all of it": Case(R=2, KV=1, D=24, window=15, unused=11, padding=2, softcap=2.0, sinks=True, splits=2),
    "no decay": Case(ema=1.0),
    "bf16": Case(dtype=torch.bfloat16, D=80, V=80),
    "bf16, keys split": Case(dtype=torch.bfloat16, q=3, splits=3, window=20),
    "fp16": Case(dtype=torch.float16, R=2, KV=1, padding=3),
}
