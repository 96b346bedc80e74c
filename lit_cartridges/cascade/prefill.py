"""Reading long inputs into a cascade, a stride at a time, at a cost linear in their length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade.cascading_cache import CascadingCache
from lit_cartridges.cascade.reading import reads_cascades


@torch.no_grad()
def cascade_prefill(
    model: PreTrainedModel, cache: CascadingCache, input_ids: Tensor, attention_mask: Tensor | None = None
) -> None:
    """Read ``input_ids`` [R, tokens] into ``cache``, behind what it has read already; any number of tokens.

    A later ``model.generate(input_ids, **cache_argument(cache))`` takes these tokens and at least one more, and reads only
    what is new.

    Args:
        attention_mask: [R, tokens], 0 where padded, for rows that differ in length; None when nothing is padded.
    """
    # Not in a caller's autocast: the model reads in the dtype that it was loaded in.
    with reads_cascades(model), torch.autocast(input_ids.device.type, enabled=False):
        for stride, mask in _strides(cache, input_ids, attention_mask):
            model.base_model(stride, attention_mask=mask, **cache_argument(cache), use_cache=True)


@torch.no_grad()
def streamed_logprobs(
    model: Any, cache: CascadingCache, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """Log-probability of every token given the cascade's reading of those before it: fp32 [R, tokens - 1].

    Every token is scored once, at the forward call that reads the one before. Never more than a stride's logits
    exist at a time. Zero where a token or the one before it is padding.
    """
    columns, last = [], None
    # Not in a caller's autocast: the model reads in the dtype that it was loaded in.
    with reads_cascades(model), torch.autocast(input_ids.device.type, enabled=False):
        for stride, mask in _strides(cache, input_ids, attention_mask):
            logits = model(stride, attention_mask=mask, **cache_argument(cache), use_cache=True).logits
            before = logits[:, :-1] if last is None else torch.cat([last, logits[:, :-1]], dim=1)
            after = stride[:, 1:] if last is None else stride
            picked = before.float().log_softmax(-1).gather(2, after[..., None].to(before.device))
            columns.append(picked.squeeze(2))
            last = logits[:, -1:]
    scored = torch.cat(columns, dim=1)
    if attention_mask is not None:
        real = attention_mask.bool().to(scored.device)
        scored = scored.where(real[:, 1:] & real[:, :-1], 0.0)
    return scored


def _strides(
    cache: CascadingCache, input_ids: Tensor, attention_mask: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    if input_ids.ndim != 2 or input_ids.shape[1] == 0:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)}; give [rows, tokens] with at least one token"
        )
    size = cache.stride_tokens
    for start in range(0, input_ids.shape[1], size):
        mask = None if attention_mask is None else attention_mask[:, start : start + size]
        yield input_ids[:, start : start + size], mask
