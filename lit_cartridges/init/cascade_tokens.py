"""Start from what a cascading KV cache keeps of the corpus."""

from __future__ import annotations

from dataclasses import replace

import torch

from lit_cartridges.cascade import cascade_prefill
from lit_cartridges.cascade.options import CascadeOptions, Cascades, HeadReduction
from lit_cartridges.init.init_strategy import InitContext, InitialTensors, InitStrategy
from lit_cartridges.init.token_strategy import repeated
from lit_cartridges.settings import NonNegativeInt, PositiveInt, PositiveShare, checked


class CascadeTokens(InitStrategy):
    """The whole corpus, streamed once through a cascade of ``num_tokens`` (arXiv 2406.17808); what it holds at the end.

    The keys that stay are rotated to the positions 0..num_tokens-1, in the order of their tokens. The chat template's
    opening is made of sinks, and so are the few tokens that equal sub-caches leave over. Nothing is lost before the cache is
    full (`eager_fill`), and a corpus shorter than the cartridge is read again from its start, so every position is used.
    Unlike a prefill, this takes a corpus of any length, in memory that does not depend on it.

    Args:
        cascades: number of sub-caches; fewer where the cartridge has not a token for each. 1 keeps the corpus's end, as
            StreamingLLM does.
        sink_tokens: the first tokens, which stay; at least the opening.
        stride_tokens: tokens read at once; fewer where the model's positions leave less room beside the cartridge.
        head_reduction, shared_heads, ema_factor: as for `CascadingCache`.
    """

    @checked
    def __init__(
        self,
        *,
        cascades: Cascades = 4,
        sink_tokens: NonNegativeInt = 4,
        stride_tokens: PositiveInt = 512,
        head_reduction: HeadReduction = "max",
        shared_heads: bool = False,
        ema_factor: PositiveShare = 0.9999,
    ) -> None:
        self.options = CascadeOptions(
            cascades=cascades,
            sink_tokens=sink_tokens,
            stride_tokens=stride_tokens,
            head_reduction=head_reduction,
            shared_heads=shared_heads,
            ema_factor=ema_factor,
        )

    @torch.no_grad()
    def tensors(self, context: InitContext) -> InitialTensors:
        """See `InitStrategy.tensors`."""
        model, cache = context.model, self._sized(context).new_cache(context.model.config)
        opening = [int(i) for i in context.opening_ids]
        length = max(len(context.corpus_ids), context.num_tokens - len(opening))
        ids = opening + repeated(context.corpus_ids, length, of="the corpus")
        stride = cache.stride_tokens
        for start in context.bar(range(0, len(ids), stride), "streaming the corpus"):
            cascade_prefill(model, cache, torch.tensor([ids[start : start + stride]], device=model.device))
        cartridge = cache.to_cartridge(model).requires_grad_(False)
        return InitialTensors(*cartridge.tensors())

    def _sized(self, context: InitContext) -> CascadeOptions:
        """Of exactly ``context.num_tokens``.

        Raises:
            ValueError: the sinks leave no place.
        """
        size, opening = context.num_tokens, len(context.opening_ids)
        if opening >= size:
            raise ValueError(
                f"num_tokens={size} leaves no place for init={self.describe()} behind the chat template's opening of "
                f"{opening} tokens; choose at least {opening + 1}"
            )
        sinks, stride = min(self.options.sink_tokens, size - 1), self.options.stride_tokens
        if context.max_positions is not None:
            stride = min(stride, context.max_positions - size)
        sized = replace(self.options, total_tokens=size, sink_tokens=sinks, stride_tokens=stride)
        return sized.keeping(opening)
