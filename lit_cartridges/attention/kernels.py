"""Attention that also returns its log-sum-exp, and its backward pass from a given log-sum-exp.

`torch.nn.functional.scaled_dot_product_attention` hides the log-sum-exp that merging needs, so these functions call
the operators below it: the fused CPU kernel, flash attention on CUDA (half precision, no mask), and otherwise
`plain_attention`: soft-capped scores, biases, values of another width than keys, dtypes that differ.

Shapes: query [B, H, T, D] · key, value [B, K, M, D] · mask, additive and broadcastable to [B, 1, T, M] · lse [B, H, T]
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lit_cartridges.attention.plain import (
    HIDDEN,
    attend_backward_plain,
    attend_plain,
    per_kv_head,
    per_query_head,
)


def additive_mask(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask for queries of ``dtype``: 0, and HIDDEN where ``hidden`` is True; fp32 for fp16, which cannot hold that."""
    dtype = torch.float32 if dtype == torch.float16 else dtype
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, HIDDEN)


def attend(
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
    """Output [B, H, T, D] in the query's dtype and log-sum-exp [B, H, T] in fp32 (fp64 of fp64 queries).

    Args:
        causal: query i sees the keys up to i; needs T = M.
        softcap: scores s become softcap · tanh(s / softcap), before masks and biases; None for none.
        bias: [K, M], added to the scores behind the cap; None for none.
    """
    if softcap is None and bias is None:
        if _fused_on_cpu(query, key, value, mask):
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, 0.0, causal, attn_mask=mask, scale=scale
            )
        if takes_flash(query, key, value, mask):
            return flash_forward(query, key, value, scale, causal)
    return attend_plain(query, key, value, scale, causal=causal, mask=mask, softcap=softcap, bias=bias)


def attend_backward(
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
    """Gradients of query, key, value, and of the bias if there is one.

    ``out`` and ``lse`` may be those of a larger set of keys (see merged_attention).
    """
    if softcap is None and bias is None:
        if _fused_on_cpu(query, key, value, mask):
            wide_key, wide_value = per_query_head(query, key, value)
            d_query, d_key, d_value = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad, query, wide_key, wide_value, out, lse, 0.0, causal, attn_mask=mask, scale=scale
            )
            return d_query, per_kv_head(d_key, key), per_kv_head(d_value, value)
        if takes_flash(query, key, value, mask):
            return flash_backward(grad, query, key, value, out, lse, scale, causal)
    return attend_backward_plain(
        *(grad, query, key, value, out, lse, scale), causal=causal, mask=mask, softcap=softcap, bias=bias
    )


class Packing(NamedTuple):
    """Where the sequences of a packed row lie, which do not see each other, for flash attention's variable-length path."""

    cum_seq_q: Tensor
    """Where each one's queries begin, and the last one's end: [sequences + 1], int32, on the row's device."""
    cum_seq_k: Tensor
    """The same of its keys."""
    max_q: int
    """Queries of the longest."""
    max_k: int


def flash_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    causal: bool,
    *,
    packing: Packing | None = None,
    used: Tensor | None = None,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`attend` by CUDA's flash attention, which reads grouped heads as they are.

    Args:
        packing: of a single row; None for rows that are one sequence each.
        used: [sequences], int32, how many keys each sequence of ``packing`` reads. Then ``cum_seq_k`` says where each one's keys
            begin, in any order, several may begin at one, and ``max_k`` need only be no less than any of ``used``. The
            log-sum-exp of a sequence without keys is inf.
        window: a causal query sees its last ``window`` keys, itself among them; None for all. The last query of a sequence
            stands at its last key.
    """
    tensors = (_aligned(_tokens_first(x, packing)) for x in (query, key, value))
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        *(*tensors, *(packing or (None, None, query.shape[2], key.shape[2])), 0.0, causal, False),
        scale=scale,
        window_size_left=None if window is None else window - 1,
        seqused_k=used,
    )
    return _heads_first(out, packing), lse if packing is None else lse[None]


def flash_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    causal: bool,
    *,
    packing: Packing | None = None,
    window: int | None = None,
) -> tuple[Tensor, ...]:
    """`attend_backward` by CUDA's flash attention; the rest as in `flash_forward`."""
    tensors = (_aligned(_tokens_first(x, packing)) for x in (grad, query, key, value, out))
    # The random state is read with dropout alone. A cum_seq that is a tensor, an empty one too, asks for the
    # variable-length path.
    unread = torch.empty(0, dtype=torch.int64, device=query.device)
    grads = torch.ops.aten._flash_attention_backward(
        *tensors,
        (lse if packing is None else lse[0]).contiguous(),  # read by its address alone
        *(*(packing or (None, None, query.shape[2], key.shape[2])), 0.0, causal, unread, unread),
        scale=scale,
        window_size_left=None if window is None else window - 1,
    )
    return tuple(_heads_first(x, packing) for x in grads)


def takes_flash(query: Tensor, key: Tensor, value: Tensor, *others: object) -> bool:
    """Whether flash attention reads such tensors here; ``others`` (masks, soft-caps, biases) must be None."""
    return all(x is None for x in others) and flash_takes(query, key, value) and has_flash(query.device)


def flash_takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether flash attention reads such tensors, backward too; consumer cards have no backward for 193 to 224 wide."""
    half = query.dtype in (torch.float16, torch.bfloat16) and query.dtype == key.dtype == value.dtype
    width = query.shape[-1]
    narrow = width == value.shape[-1] and width % 8 == 0 and (width <= 192 or 224 < width <= 256)
    return half and narrow and query.numel() > 0 and key.numel() > 0


@cache
def has_flash(device: torch.device) -> bool:
    """Whether the device has that operator: NVIDIA's cards from Ampere on, and a torch that was built with it."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return (
        torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device)[0] >= 8
    )


def _fused_on_cpu(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    dtypes = {x.dtype for x in (query, key, value, mask) if x is not None}
    return (
        query.device.type == "cpu"
        and query.shape[-1] == value.shape[-1]
        and len(dtypes) == 1
        and query.dtype in (torch.float32, torch.bfloat16, torch.float64)
        and query.numel() > 0
        and key.numel() > 0
    )


def _tokens_first(x: Tensor, packing: Packing | None) -> Tensor:
    """As flash attention takes them: [B, H, T, D] -> [B, T, H, D], or [T, H, D] of a packed row."""
    return x.transpose(1, 2) if packing is None else x[0].transpose(0, 1)


def _heads_first(x: Tensor, packing: Packing | None) -> Tensor:
    return x.transpose(1, 2) if packing is None else x.transpose(0, 1)[None]


def _aligned(x: Tensor) -> Tensor:
    """``x`` where the kernel can load 8 numbers at a time, which its last dimension and its rows must allow; a copy else."""
    strides = [stride for size, stride in zip(x.shape[:-1], x.stride(), strict=False) if size > 1]
    whole = all(stride % 8 == 0 for stride in strides) and x.storage_offset() % 8 == 0
    return x if x.stride(-1) == 1 and whole else x.contiguous()
