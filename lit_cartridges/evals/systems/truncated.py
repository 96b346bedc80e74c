"""Dense attention to the last tokens, as many as a cascade holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_cartridges.evals.systems.kind import Sizes, StreamedKind
from lit_cartridges.evals.systems.system import picked

TRUNCATED = "truncated"


@torch.no_grad()
def truncated_logprobs(model: Any, input_ids: Tensor, *, total_tokens: int, stride_tokens: int) -> Tensor:
    """Log-probabilities fp32 [rows, tokens - 1], each given at least the ``total_tokens`` tokens before it, or all there are.

    A stride is scored by one plain forward call over the ``total_tokens`` tokens before it and itself, from position 0.
    """
    columns = []
    for start in range(0, input_ids.shape[1] - 1, stride_tokens):
        first = max(0, start - total_tokens)
        part = input_ids[:, first : start + stride_tokens]
        kept = part.shape[1] - (start - first)
        logits = model(part, use_cache=False, logits_to_keep=kept).logits
        columns.append(picked(logits, input_ids[:, start + 1 : start + kept + 1]))
    return torch.cat(columns, dim=1)


class Truncated(StreamedKind):
    """See `truncated_logprobs`."""

    name = TRUNCATED

    def logprobs(self, model: PreTrainedModel, input_ids: Tensor, sizes: Sizes) -> Tensor:
        """See `StreamedKind.logprobs`."""
        return truncated_logprobs(
            model,
            input_ids,
            total_tokens=sizes.cascade.total_tokens,
            stride_tokens=sizes.cascade.stride_tokens,
        )
