"""What CUDA's flash attention demands of its two operators, for machines that have no CUDA device.

`CudaFlash` watches the calls that reach torch's dispatcher. On the CPU it answers them by softmax in fp64, after refusing
what the CUDA code refuses and reading what it reads: the log-sum-exp by its address alone, and any cum_seq that is a
tensor as a request for the variable-length path (aten/src/ATen/native/transformers/cuda of PyTorch). On the meta device
torch's own registration answers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

FORWARD = torch.ops.aten._scaled_dot_product_flash_attention.default
BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_backward.default


class CudaFlash(TorchDispatchMode):
    """``calls`` holds each call's operator and its arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, dict[str, Any]]] = []

    def of(self, operator: Any) -> list[dict[str, Any]]:
        return [arguments for called, arguments in self.calls if called is operator]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (FORWARD, BACKWARD):
            return func(*args, **(kwargs or {}))
        given = {x.name: x.default_value for x in func._schema.arguments}
        given |= dict(zip(given, args, strict=False)) | (kwargs or {})
        self.calls.append((func, given))
        if given["query"].device.type == "meta":
            return func(*args, **(kwargs or {}))
        return _forward(**given) if func is FORWARD else _backward(**given)


def _refuse(query: Tensor, key: Tensor, value: Tensor, *others: Tensor, dropout_p: float) -> None:
    assert query.dtype in (torch.float16, torch.bfloat16), (
        "FlashAttention only support fp16 and bf16 data type"
    )
    for x in (query, key, value, *others):
        assert x.dtype == query.dtype, "query and key must have the same dtype"
        assert x.stride(-1) == 1, "Input tensor must have contiguous last dimension"
        assert x.shape[-1] == query.shape[-1], "query and value must have the same width"
        assert x.shape[1] == query.shape[1], "query heads and key heads are as many in our calls"
        assert all(stride % 8 == 0 for stride in x.stride()[:-1]), "misaligned address"
        assert x.storage_offset() % 8 == 0, "misaligned address"
    assert query.shape[-1] % 8 == 0, "head_size should be a multiple of 8"
    assert query.shape[-1] <= 256, "FlashAttention backward only supports head dimension at most 256"
    assert dropout_p == 0


def _scores(query: Tensor, key: Tensor, is_causal: bool, scale: float) -> Tensor:
    scores = query.double() @ key.double().transpose(-1, -2) * scale
    if is_causal:
        assert scores.shape[-1] == scores.shape[-2], "causal is aligned to the upper left"
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    return scores


def _forward(query, key, value, dropout_p, is_causal, return_debug_mask, scale) -> tuple:
    _refuse(query, key, value, dropout_p=dropout_p)
    scores = _scores(query, key, is_causal, scale)
    # As the CUDA code lays them out: [batch, tokens, heads, width].
    out = (scores.softmax(-1) @ value.double()).to(query.dtype).transpose(1, 2).contiguous().transpose(1, 2)
    lse, none = scores.logsumexp(-1).float(), query.new_empty(0)
    return out, lse, None, None, query.shape[2], key.shape[2], none, none, none


def _backward(
    grad_out, query, key, value, out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, **given: Any
) -> tuple[Tensor, Tensor, Tensor]:
    assert cum_seq_q is None and cum_seq_k is None, "cu_seqlens_q must have dtype int32"
    assert (max_q, max_k) == (query.shape[2], key.shape[2])
    assert given["philox_seed"].numel() == given["philox_offset"].numel() == 0
    assert logsumexp.dtype == torch.float32 and logsumexp.shape == query.shape[:3]
    lse = torch.as_strided(logsumexp, logsumexp.shape, _packed_strides(logsumexp.shape))
    _refuse(query, key, value, grad_out, out, dropout_p=given["dropout_p"])
    weights = (_scores(query, key, given["is_causal"], given["scale"]) - lse.double().unsqueeze(-1)).exp()
    grad, d_value = grad_out.double(), weights.transpose(-1, -2) @ grad_out.double()
    d_scores = weights * (
        grad @ value.double().transpose(-1, -2) - (grad * out.double()).sum(-1, keepdim=True)
    )
    d_scores = d_scores * given["scale"]
    d_query, d_key = d_scores @ key.double(), d_scores.transpose(-1, -2) @ query.double()
    return d_query.to(query.dtype), d_key.to(key.dtype), d_value.to(value.dtype)


def _packed_strides(shape: torch.Size) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides)
