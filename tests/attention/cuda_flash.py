"""What CUDA's flash attention demands of its two operators, for machines that have no CUDA device.

`CudaFlash` watches the calls that reach torch's dispatcher. On the CPU it answers them by softmax in fp64, after refusing
what the CUDA code refuses and reading what it reads: the log-sum-exp by its address alone, and any cum_seq that is a
tensor as a request for the variable-length path (aten/src/ATen/native/transformers/cuda of PyTorch). On the meta device
torch's own registration answers.

Shapes: [B, T, H, D], and log-sum-exp [B, H, T]; of the variable-length path [T, H, D] and [H, T]. Keys have K heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

FORWARD = torch.ops.aten._flash_attention_forward.default
BACKWARD = torch.ops.aten._flash_attention_backward.default


class CudaFlash(TorchDispatchMode):
    """``calls`` holds each call's operator and its arguments by name.

    Args:
        wide: take fp32 too, so that what is read can be compared exactly.
    """

    def __init__(self, *, wide: bool = False) -> None:
        super().__init__()
        self.dtypes = (torch.float16, torch.bfloat16, *([torch.float32] if wide else []))
        self.calls: list[tuple[Any, dict[str, Any]]] = []
        self.answering = False

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
        assert given["query"].dtype in self.dtypes, "FlashAttention only support fp16 and bf16 data type"
        self.answering = True
        try:
            return _forward(given) if func is FORWARD else _backward(given)
        finally:
            self.answering = False


def _refuse(given: dict[str, Any], *others: Tensor) -> None:
    query, key, value = (given[name] for name in ("query", "key", "value"))
    packed = given["cum_seq_q"] is not None
    for x in (query, key, value, *others):
        assert x.ndim == (3 if packed else 4)
        assert x.dtype == query.dtype, "query and key must have the same dtype"
        assert x.stride(-1) == 1, "Input tensor must have contiguous last dimension"
        assert x.shape[-1] == query.shape[-1], "query and value must have the same width"
        strides = [stride for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1]
        assert all(stride % 8 == 0 for stride in strides[:-1]), "misaligned address"
        assert x.storage_offset() % 8 == 0, "misaligned address"
    assert query.shape[-2] % key.shape[-2] == 0, "Number of heads in key/value must divide those in query"
    assert query.shape[-1] % 8 == 0, "head_size should be a multiple of 8"
    assert query.shape[-1] <= 256, "FlashAttention backward only supports head dimension at most 256"
    assert given["dropout_p"] == 0
    assert given["window_size_left"] is None or given["window_size_left"] >= 0
    assert given["window_size_right"] is None
    most = given["max_q"], given["max_k"]
    if not packed:
        assert given["cum_seq_k"] is None and most == (query.shape[1], key.shape[1])
        return
    used = given.get("seqused_k")
    for cum_seq, longest, tokens in zip(("cum_seq_q", "cum_seq_k"), most, (query, key), strict=True):
        ends = given[cum_seq]
        assert ends.dtype == torch.int32, f"{cum_seq} must have dtype int32"
        assert ends.is_contiguous() and ends.ndim == 1
        assert len(ends) == len(given["cum_seq_q"]), "cu_seqlens must have shape (batch_size + 1)"
        if used is None:
            assert ends[0] == 0 and ends[-1] == len(tokens), "read elsewhere"
            assert 0 < ends.diff().min() and ends.diff().max() <= longest, "keys or queries are left out"
        elif cum_seq == "cum_seq_q":
            assert ends[0] == 0 and ends[-1] == len(tokens) and ends.diff().min() >= 0, "read elsewhere"
            assert ends.diff().max() <= longest, "queries beyond max_q are left out"
        else:
            assert used.dtype == torch.int32 and used.shape == (len(ends) - 1,) and used.is_contiguous()
            assert used.min() >= 0 and used.max() <= longest, "read elsewhere"
            assert ends[:-1].min() >= 0 and (ends[:-1] + used).max() <= len(tokens), "read elsewhere"


def _sequences(given: dict[str, Any], name: str) -> list[Tensor]:
    """Per sequence [T, heads, D], in fp64."""
    x: Tensor = given[name].double()
    side = "cum_seq_k" if name in ("key", "value") else "cum_seq_q"
    if given[side] is None:
        return list(x)
    if side == "cum_seq_k" and given.get("seqused_k") is not None:
        starts, used = given[side].tolist(), given["seqused_k"].tolist()
        return [x[start : start + n] for start, n in zip(starts, used, strict=False)]
    return list(x.split(given[side].diff().tolist()))


def _joined(given: dict[str, Any], sequences: list[Tensor], dim: int) -> Tensor:
    return torch.stack(sequences) if given["cum_seq_q"] is None else torch.cat(sequences, dim)


def _scores(given: dict[str, Any], query: Tensor, key: Tensor) -> Tensor:
    """[H, T, M] of one sequence; a causal query and its window are counted from the last key."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = torch.einsum("thd,mhd->htm", query, key) * given["scale"]
    places = torch.arange(len(query))[:, None] + len(key) - len(query)
    distance = places - torch.arange(len(key))
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if given["is_causal"]:
        hidden |= distance < 0
    if given["window_size_left"] is not None:
        hidden |= distance > given["window_size_left"]
    return scores.masked_fill(hidden, -torch.inf)


def _forward(given: dict[str, Any]) -> tuple[Any, ...]:
    _refuse(given)
    outs, lses = [], []
    for query, key, value in zip(*(_sequences(given, x) for x in ("query", "key", "value")), strict=True):
        if len(key) == 0:
            outs.append(torch.zeros_like(query))
            lses.append(torch.full((query.shape[1], len(query)), torch.inf, dtype=torch.float64))
            continue
        scores = _scores(given, query, key)
        wide = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
        outs.append(torch.einsum("htm,mhd->thd", scores.softmax(-1), wide))
        lses.append(scores.logsumexp(-1))
    out = _joined(given, outs, 0).to(given["query"].dtype)
    return out, _joined(given, lses, 1).float(), *(out.new_empty(0) for _ in range(3))


def _backward(given: dict[str, Any]) -> tuple[Tensor, ...]:
    logsumexp = given["logsumexp"]
    assert given["rng_state"].numel() == given["unused"].numel() == 0
    assert logsumexp.dtype == torch.float32
    tokens = given["query"].shape[:-1]
    heads_first = (tokens[0], tokens[2], tokens[1]) if len(tokens) == 3 else (tokens[1], tokens[0])
    assert logsumexp.shape == heads_first
    _refuse(given, given["grad_out"], given["out"])
    by_address = torch.as_strided(logsumexp, logsumexp.shape, _packed_strides(logsumexp.shape)).double()
    if given["cum_seq_q"] is None:
        lses = list(by_address)
    else:
        lses = list(by_address.split(given["cum_seq_q"].diff().tolist(), 1))
    grads: tuple[list[Tensor], ...] = ([], [], [])
    names = ("query", "key", "value", "grad_out", "out")
    for query, key, value, grad, out, lse in zip(*(_sequences(given, x) for x in names), lses, strict=True):
        groups = query.shape[1] // key.shape[1]
        wide_key, wide_value = (x.repeat_interleave(groups, 1) for x in (key, value))
        weights = (_scores(given, query, key) - lse[..., None]).exp()
        slopes = torch.einsum("thd,mhd->htm", grad, wide_value) - (grad * out).sum(-1).T[..., None]
        d_scores = weights * slopes * given["scale"]
        grads[0].append(torch.einsum("htm,mhd->thd", d_scores, wide_key))
        for into, x, by in ((grads[1], d_scores, query), (grads[2], weights, grad)):
            # Of each query head by itself, rounded, and then summed over a group.
            each = torch.einsum("htm,thd->mhd", x, by).to(given["query"].dtype)
            into.append(each.unflatten(1, (-1, groups)).float().sum(2))
    return tuple(_joined(given, x, 0).to(given["query"].dtype) for x in grads)


def _packed_strides(shape: torch.Size) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides)
