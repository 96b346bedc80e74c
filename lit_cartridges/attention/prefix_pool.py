"""Prefixes that come and go, their keys and values one behind the other in one tensor per layer and side.

Shapes: K key-value heads · P tokens of a prefix · D head dim
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from torch import Tensor

KeysAndValues = tuple[list[Tensor], list[Tensor]]
H = TypeVar("H", bound=Hashable)


class PrefixPool(Generic[H]):
    """``keys`` and ``values`` are the pool, per layer [pool_tokens, K, D]; ``version`` counts how often they were made anew."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.version = 0
        self._spans: dict[H, slice] = {}

    @property
    def tokens(self) -> int:
        """Room for so many in all layers; growth may have ended early, for want of memory."""
        return min(map(len, (*self.keys, *self.values)), default=0)

    def put(self, name: H, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Copy a prefix in, per layer [K, P, D], where there is room; the pool is doubled where there is none."""
        span = self._free(keys[0].shape[1])
        if span.stop > self.tokens or len(self.values) < len(values):
            self._grow(max(span.stop, 2 * self.tokens), keys, values)
        self._spans[name] = span
        for pool, side in zip((*self.keys, *self.values), (*keys, *values), strict=True):
            pool[span] = side.transpose(0, 1)

    def drop(self, name: H) -> None:
        """Its place is free."""
        del self._spans[name]

    def clear(self) -> None:
        """All of it is free."""
        self._spans = {}

    def span(self, name: H) -> slice:
        """Where it lies."""
        return self._spans[name]

    def views(self, name: H) -> KeysAndValues:
        """What was put in, until the next is: per layer [K, P, D]."""
        span = self._spans[name]
        return [x[span].transpose(0, 1) for x in self.keys], [x[span].transpose(0, 1) for x in self.values]

    def _free(self, tokens: int) -> slice:
        start = 0
        for span in sorted(self._spans.values(), key=lambda span: int(span.start)):
            if start + tokens <= span.start:
                break
            start = span.stop
        return slice(start, start + tokens)

    def _grow(self, tokens: int, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        self.version += 1
        for pools, sides in ((self.keys, keys), (self.values, values)):
            for layer, side in enumerate(sides):
                new = side.new_empty(tokens, side.shape[0], side.shape[2])
                if layer < len(pools):
                    new[: len(pools[layer])] = pools[layer]
                    pools[layer] = new
                else:
                    pools.append(new)
