"""The sizes of one layer's cascade, and which tokens each of its sub-caches accepts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CascadeShape:
    """Sinks, then ``cascades`` sub-caches of ``window_tokens`` each; sub-cache 0 is the newest (arXiv 2406.17808, §3).

    Args:
        sink_tokens: the first tokens of a row, which never leave; 0 or more.
        cascades: number of sub-caches; 1 is StreamingLLM (arXiv 2309.17453): sinks and a sliding window.
        window_tokens: tokens per sub-cache. The paper takes powers of two; any size works.
        eager_fill: every sub-cache accepts every token until ``capacity_tokens`` are seen, so nothing is lost before.

    Raises:
        ValueError: a size that holds nothing.
    """

    sink_tokens: int
    cascades: int
    window_tokens: int
    eager_fill: bool = True

    def __post_init__(self) -> None:
        for name, least in (("sink_tokens", 0), ("cascades", 1), ("window_tokens", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r}: a cascade needs a whole number of at least {least}")
        if self.cascades > 62:
            raise ValueError(
                f"cascades={self.cascades}: the last would accept one token in 2^61; choose up to 62"
            )

    @property
    def capacity_tokens(self) -> int:
        """Tokens held at most: the sinks and all sub-caches."""
        return self.sink_tokens + self.cascades * self.window_tokens

    @property
    def span_tokens(self) -> int:
        """How far back the oldest token is that can be held, sinks aside, once the cascade is in its steady state."""
        return self.window_tokens * (2**self.cascades - 1)

    def accepts(self, level: int | Tensor, steps: Tensor) -> Tensor:
        """Whether sub-cache ``level``, or each of several, takes a new entry at these steps: a token's index less the sinks.

        The phase is that of the token that comes in at sub-cache 0, not of the one that is handed on.
        """
        due = steps % 2**level == 0
        return due | (steps <= self.cascades * self.window_tokens) if self.eager_fill else due
