"""Attention of a packed training row as one operator that torch.compile does not look into: forward, backward, shapes.

A compiled layer sees tensors alone. So what a layer reads travels as `HandedOver`: the prefix's tensors, for gradients to
reach them, and a ticket that names the running call and the layer. The ticket is a tensor on the CPU, since a number would be
compiled in. A call is found by it as long as somebody holds it: its caller forwards, the prefix's gradients until backward.

Shapes as in `parts`; the output is [B, T, H, D], as layers go on with it.
"""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from lit_cartridges.attention.kernels import takes_flash
from lit_cartridges.attention.merged import merged_backward, merged_forward
from lit_cartridges.attention.parts import require_packed

KEYWORD = "cartridge_handed_over"
"""Of a layer's forward call, which hands it down to its attention."""

_calls: WeakValueDictionary[int, Any] = WeakValueDictionary()
_tickets = count()


class HandedOver(NamedTuple):
    """What one layer's attention reads beside queries, keys and values."""

    ticket: Tensor
    """[2], int64, on the CPU: the call and the layer."""
    keys: Tensor | None
    """[1, K, P, D], as values; None without a prefix."""
    values: Tensor | None
    biases: Tensor | None
    """[K, P]."""


def hand_over(call: Any, layer: int, device: torch.device, dtype: torch.dtype) -> HandedOver:
    """
    Args:
        call: one of `model_calls`, whose reader is a `PrefixCall` of packed sequences.
        device, dtype: of the layer.
    """
    if call.number is None:
        call.number = next(_tickets)
        _calls[call.number] = call
    reading, ticket = call.reader.reading, torch.tensor([call.number, layer])
    if reading.num_tokens == 0:
        return HandedOver(ticket, None, None, None)
    keys, values = (side[layer].to(device, dtype)[None] for side in (reading.keys, reading.values))
    biases = None if reading.biases is None else reading.biases[layer].to(device)
    return HandedOver(ticket, _Holding.apply(keys, call), values, biases)


class _Holding(torch.autograd.Function):
    """Keeps a call for as long as the backward pass may ask for it."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, call: Any) -> Tensor:
        ctx.call = call
        return keys.view_as(keys)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


@torch.library.custom_op("lit_cartridges::attend", mutates_args=())
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor | None,
    values: Tensor | None,
    biases: Tensor | None,
    sinks: Tensor | None,
    ticket: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, H, D] and log-sum-exp [B, H, T] of a packed row behind the prefix that the ticket's call reads."""
    number, layer = ticket.tolist()
    call = _calls[number]
    call.asked[layer] += 1
    tensors, own, prefix, _ = _parts(call.reader, query, key, value, keys, values, biases, window, softcap)
    out, lse = merged_forward(
        query, *tensors, biases, sinks, scale=scale, own=own, prefix=prefix, softcap=softcap
    )
    return out.transpose(1, 2).contiguous(), lse.contiguous()


@attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    rows, heads, tokens, _ = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    out = query.new_empty(rows, tokens, heads, value.shape[-1])
    return out, query.new_empty(rows, heads, tokens, dtype=wide)


@torch.library.custom_op("lit_cartridges::attend_backward", mutates_args=())
def attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor | None,
    values: Tensor | None,
    biases: Tensor | None,
    sinks: Tensor | None,
    ticket: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients [B, T, H, D] and [B, T, K, D] of query, key and value; and of the prefix's keys, values and biases, empty
    where there are none."""
    reader = _calls[ticket.tolist()[0]].reader
    tensors, own, prefix, windowed = _parts(reader, query, key, value, keys, values, biases, window, softcap)
    d_query, d_key, d_value, d_keys, d_values, d_biases, _ = merged_backward(
        *(grad.transpose(1, 2), query, *tensors, biases, sinks, out.transpose(1, 2), lse),
        scale=scale,
        own=own,
        prefix=prefix,
        softcap=softcap,
        wants_sinks=False,
    )
    if (
        windowed is not None
        and keys is not None
        and values is not None
        and d_key is not None
        and d_value is not None
    ):
        d_keys, d_key = windowed.split(d_key, keys.shape[2])
        d_values, d_value = windowed.split(d_value, values.shape[2])
    assert d_query is not None and d_key is not None and d_value is not None
    d_query, d_key, d_value = (x.transpose(1, 2).contiguous() for x in (d_query, d_key, d_value))
    shared = (
        query.new_empty(0) if like is None or x is None else x.to(like.dtype).contiguous()
        for x, like in ((d_keys, keys), (d_values, values), (d_biases, biases))
    )
    return d_query, d_key, d_value, *shared  # type: ignore[return-value]


@attend_backward.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *others: Any) -> tuple[Tensor, ...]:
    own = (x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]) for x in (query, key, value))
    shared = (query.new_empty(0) if x is None else x.new_empty(x.shape) for x in others[:3])
    return *own, *shared


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.window, ctx.softcap = inputs
    if tensors[6] is not None and tensors[6].requires_grad:
        raise ValueError(
            "attention sinks that are trained have no compiled layers; set model.compile_layers=false"
        )
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    d_query, d_key, d_value, *shared = attend_backward(grad, *tensors, ctx.scale, ctx.window, ctx.softcap)
    own = (x.transpose(1, 2) for x in (d_query, d_key, d_value))
    of_prefix = (None if like is None else x for x, like in zip(shared, tensors[3:6], strict=True))
    return *own, *of_prefix, None, None, None, None, None


attend.register_autograd(_differentiate, setup_context=_remember)


def _parts(
    reader: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor | None,
    values: Tensor | None,
    biases: Tensor | None,
    window: int | None,
    softcap: float | None,
) -> tuple[tuple[Tensor, Tensor, Tensor | None, Tensor | None], Any, Any, Any]:
    """As `PrefixCall.attend` does it: key, value and the prefix's, own part, prefix part, and how they are joined, if so."""
    require_packed(query, key, sum(reader.reading.lengths))
    flash = takes_flash(query, key, value, softcap)
    if keys is None or values is None:
        return (key, value, None, None), reader.own_part(query, key, None, window, flash=flash), None, None
    if keys.shape[1] != key.shape[1] or keys.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"attention takes {key.shape[1]} heads of keys and caches {keys.shape[1]}: such layers are not compiled; set "
            "model.compile_layers=false"
        )
    windowed = reader.windowed(query, window) if flash and biases is None else None
    if windowed is not None:
        joined = windowed.join(keys, key), windowed.join(values, value), None, None
        return joined, windowed.part, None, windowed
    own = reader.own_part(query, key, None, window, flash=flash)
    return (key, value, keys, values), own, reader.prefix_part(query, key, None, window), None
