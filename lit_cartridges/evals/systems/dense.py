"""Dense attention to the whole document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.evals.systems.kind import Sizes, StreamedKind
from lit_cartridges.evals.systems.system import ContextTooLong, context_limit, picked

DENSE = "dense"


@torch.no_grad()
def dense_logprobs(model: Any, input_ids: Tensor, *, stride_tokens: int) -> Tensor:
    """Log-probabilities fp32 [rows, tokens - 1] by the unmodified model; a stride's logits exist at a time."""
    columns, cache = [], DynamicCache(config=model.config)
    for start in range(0, input_ids.shape[1] - 1, stride_tokens):
        stop = start + stride_tokens
        logits = model(input_ids[:, start:stop], **cache_argument(cache), use_cache=True).logits
        columns.append(picked(logits, input_ids[:, start + 1 : stop + 1]))
    return torch.cat(columns, dim=1)


class Dense(StreamedKind):
    """See `dense_logprobs`."""

    name = DENSE

    def logprobs(self, model: PreTrainedModel, input_ids: Tensor, sizes: Sizes) -> Tensor:
        """See `StreamedKind.logprobs`."""
        return dense_logprobs(model, input_ids, stride_tokens=sizes.cascade.stride_tokens)

    def held_tokens(self, config: PretrainedConfig, documents: Sequence[Sequence[int]], sizes: Sizes) -> int:
        """See `StreamedKind.held_tokens`."""
        longest = max(len(ids) for ids in documents)
        limit = context_limit(config, sizes.max_context_tokens)
        if limit is not None and longest > limit:
            raise ContextTooLong(
                f"{self.name}: the longest document has {longest} tokens, and the context holds {limit}; cut the documents"
            )
        return longest
