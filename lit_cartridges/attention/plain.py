"""Attention and its gradients by matrix products, a chunk of queries at a time: for what no fused kernel reads.

That is any device, any dtype and any mixture of them, keys and values of different width, soft-capped scores (Gemma 2,
arXiv 2408.00118, §2), and a bias per key that is added behind the cap. Everything is computed in fp32, and in fp64 where
the queries are fp64, whatever autocast says.

Shapes: query [B, H, T, D] · key [B, K, M, D] · value [B, K, M, V] · bias [K, M] · out, grad [B, H, T, V] · lse [B, H, T]
    mask, additive and broadcastable to [B, 1, T, M]
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# Additive masks use a large finite number: a query that sees nothing then has an lse of about -1e30 and weighs
# exactly 0 after a merge, where -inf would make NaN.
HIDDEN = -1e30
_CHUNK_TOKENS = 1024
_MOST_SCORES = 2**28  # of a chunk, 1 GiB in fp32: behind many keys it holds fewer queries


def attend_plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    softcap: float | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [B, H, T, V] in the query's dtype and its log-sum-exp; ``causal`` needs T = M."""
    wide = wide_dtype(query)
    key, value = per_query_head(query, key, value)
    out = query.new_empty(*query.shape[:-1], value.shape[-1])
    lse = query.new_empty(query.shape[:-1], dtype=wide)
    with without_autocast(query):
        for rows in _chunks(query, key):
            # Widened where they are used: never both at once.
            scores, _ = _scores(
                query[:, :, rows].to(wide), key.to(wide), scale, rows, causal, mask, softcap, bias
            )
            lse[:, :, rows] = scores.logsumexp(-1)
            out[:, :, rows] = (scores - lse[:, :, rows, None]).exp() @ value.to(wide)
    return out, lse


def attend_backward_plain(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    softcap: float | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of query, key and value, and of the bias if there is one.

    ``out`` and ``lse`` may be those of a larger set of keys (see merged_attention).
    """
    wide = wide_dtype(query)
    wide_key, wide_value = (x.to(wide) for x in per_query_head(query, key, value))
    d_query = torch.empty_like(query)
    d_key, d_value = torch.zeros_like(wide_key), torch.zeros_like(wide_value)
    d_bias = None if bias is None else bias.new_zeros(query.shape[1], key.shape[2], dtype=wide)
    with without_autocast(query):
        for rows in _chunks(query, key):
            part, part_grad, part_out = (x[:, :, rows].to(wide) for x in (query, grad, out))
            scores, slope = _scores(part, wide_key, scale, rows, causal, mask, softcap, bias)
            weights = (scores - lse[:, :, rows, None]).exp()
            d_value += weights.transpose(-1, -2) @ part_grad
            d_weights = part_grad @ wide_value.transpose(-1, -2)
            d_scores = weights * (d_weights - (part_grad * part_out).sum(-1, keepdim=True))
            if d_bias is not None:
                d_bias += d_scores.sum((0, 2))
            d_scores = d_scores * scale if slope is None else d_scores * slope * scale
            d_query[:, :, rows] = d_scores @ wide_key
            d_key += d_scores.transpose(-1, -2) @ part
    grads = d_query, per_kv_head(d_key, key), per_kv_head(d_value, value)
    if bias is None or d_bias is None:
        return grads
    return *grads, d_bias.unflatten(0, (len(bias), -1)).sum(1).to(bias.dtype)


def _scores(
    query: Tensor,
    key: Tensor,
    scale: float,
    rows: slice,
    causal: bool,
    mask: Tensor | None,
    softcap: float | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Scores [B, H, chunk, M] as the softmax takes them, and their slope in the products (1 if None): 1 - tanh²."""
    scores, slope = query @ key.transpose(-1, -2) * scale, None
    if softcap is not None:
        bent = torch.tanh(scores / softcap)
        scores, slope = softcap * bent, 1 - bent * bent
    if bias is not None:
        scores = scores + bias.repeat_interleave(query.shape[1] // len(bias), 0)[:, None]
    if causal:
        places = torch.arange(key.shape[2], device=key.device)
        scores = scores.masked_fill(places > places[rows, None], HIDDEN)
    if mask is not None:
        scores = scores + (mask[..., rows, :] if mask.shape[-2] > 1 else mask)
    return scores, slope


def _chunks(query: Tensor, key: Tensor) -> list[slice]:
    scores = max(1, query.shape[0] * query.shape[1] * key.shape[2])  # of one query token
    size = min(max(1, _MOST_SCORES // scores), _CHUNK_TOKENS)
    return [slice(start, start + size) for start in range(0, query.shape[2], size)]


def wide_dtype(query: Tensor) -> torch.dtype:
    """What scores and log-sum-exps of these queries are held in: fp32, or fp64."""
    return torch.promote_types(query.dtype, torch.float32)


def merged_outputs(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of the attention over two sets of keys together, in the dtype of ``lse``."""
    weight = torch.sigmoid(lse - other_lse).unsqueeze(-1)
    return torch.lerp(other.to(lse.dtype), out.to(lse.dtype), weight), torch.logaddexp(lse, other_lse)


def without_autocast(like: Tensor) -> AbstractContextManager[Any]:
    """Matrix products in the dtypes they are given, on the device of ``like``: autocast would round fp32 scores."""
    device = like.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def per_query_head(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values repeated for each query head of their group; unchanged for multi-head attention."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    return key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)


def per_kv_head(grad: Tensor, like: Tensor) -> Tensor:
    """Gradients [B, H, M, D] summed over each group's query heads: [B, K, M, D] in the dtype of ``like``."""
    return grad.unflatten(1, (like.shape[1], -1)).sum(2).to(like.dtype)
