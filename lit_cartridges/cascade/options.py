"""The settings of a cascade as one plain object, for commands, recipes and callbacks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from transformers import PretrainedConfig

from lit_cartridges.cascade.cascading_cache import CascadingCache
from lit_cartridges.settings import NonNegativeInt, PositiveInt, PositiveShare, Range, check_fields

Cascades = Annotated[int, Range(least=1, most=62)]
HeadReduction = Literal["mean", "max", "median"]


@dataclass(frozen=True, kw_only=True)
class CascadeOptions:
    """A cascade of one size in all layers; the arguments are those of `CascadingCache`.

    Args:
        total_tokens: sinks and all sub-caches together.
        cascades: number of sub-caches, which share what the sinks leave equally.
        sink_tokens: tokens that never leave.
        stride_tokens: tokens that are read at once; the model needs positions for these beside ``total_tokens``.
        eager_fill: lose nothing until the cache is full.
        head_reduction: "mean", "max" or "median" over the query heads of a token set.
        shared_heads: one token set per layer rather than one per KV head.
        ema_factor: of the scores' moving average, per query.
    """

    total_tokens: PositiveInt = 1028
    cascades: Cascades = 4
    sink_tokens: NonNegativeInt = 4
    stride_tokens: PositiveInt = 512
    eager_fill: bool = True
    head_reduction: HeadReduction = "max"
    shared_heads: bool = False
    ema_factor: PositiveShare = 0.9999

    def __post_init__(self) -> None:
        check_fields(self)

    def new_cache(self, config: PretrainedConfig) -> CascadingCache:
        """An empty cache for the model of this config.

        Raises:
            ValueError: a size that cannot be, or positions beyond those that the model knows.
        """
        return CascadingCache(config=config, **asdict(self))

    def keeping(self, first_tokens: int) -> CascadeOptions:
        """The same size, with at least so many sinks; the few tokens that equal sub-caches leave over are sinks too.

        Raises:
            ValueError: they leave no place for anything else.
        """
        sinks = max(self.sink_tokens, first_tokens)
        free = self.total_tokens - sinks
        if free < 1:
            raise ValueError(
                f"total_tokens={self.total_tokens} leaves no place behind {sinks} tokens that stay; choose at least {sinks + 1}"
            )
        cascades = min(self.cascades, free)
        return replace(self, cascades=cascades, sink_tokens=sinks + free % cascades)

    def streaming_llm(self) -> CascadeOptions:
        """StreamingLLM of the same total size: one sub-cache, which is a sliding window behind the sinks."""
        return replace(self, cascades=1)


DEFAULT_CASCADE = CascadeOptions()
