"""Exact attention over a shared prefix and each row's own tokens, without joining the two.

Softmax attention over the keys ``[prefix | own]`` is the average of the attention over each set alone, weighted by
``exp(lse)``, where ``lse`` is the log-sum-exp of that set's scores. So the prefix is read by one unmasked product for
all tokens of all rows (it is never copied per row), the own tokens by plain causal attention, and no mask of size
[tokens, prefix + tokens] exists. The backward pass uses the identity that FlashAttention (arXiv 2205.14135, §3.1)
rests on: given the *merged* output and log-sum-exp, each part's gradients are exact on their own.

A learned sink (gpt-oss) is one more part, of a single key whose score is the sink and whose value is zero. A soft-cap
bends each score by itself (Gemma 2), before masks and before the biases of the prefix's keys.

Shapes, everywhere below:
    B rows · T query tokens of a row · M own keys of a row (M ≥ T when some are cached) · P prefix tokens
    H query heads · K key-value heads · G = H / K · D head dim
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_cartridges.attention.kernels import takes_flash
from lit_cartridges.attention.key_biases import gradient_of_biases, narrowed, widen_values, widened
from lit_cartridges.attention.parts import Part, PrefixPart
from lit_cartridges.attention.plain import merged_outputs


def with_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
    """The same with one more key per head, of score ``sinks`` [H] and value zero."""
    column = sinks.to(lse.dtype)[:, None]
    return out * torch.sigmoid(lse - column).unsqueeze(-1), torch.logaddexp(lse, column)


class MergedAttention(torch.autograd.Function):
    """Attention of ``query`` [B, H, T, D] over a prefix [1, K, P, D], if any, and the rows' own keys [B, K, M, D].

    ``prefix_biases`` [K, P], or None, are added to the scaled and capped scores of the prefix's keys. ``softcap`` makes
    scores s to softcap · tanh(s / softcap), of the prefix's and the own keys; None for none. ``sinks`` [H], or None, are
    the scores of one more key per head, whose value is zero; they get a gradient if they want one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor | None,
        prefix_value: Tensor | None,
        scale: float,
        own: Part,
        prefix: PrefixPart | None,
        prefix_biases: Tensor | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        tensors = query, key, value, prefix_key, prefix_value, prefix_biases, sinks
        out, lse = merged_forward(*tensors, scale=scale, own=own, prefix=prefix, softcap=softcap)
        ctx.save_for_backward(*tensors, out, lse)
        ctx.options = {"scale": scale, "own": own, "prefix": prefix, "softcap": softcap}
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *d_sides, d_biases, d_sinks = merged_backward(
            grads[0], *ctx.saved_tensors, wants_sinks=ctx.needs_input_grad[-1], **ctx.options
        )
        return *d_sides, None, None, None, d_biases, None, d_sinks


def merged_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor | None,
    prefix_value: Tensor | None,
    prefix_biases: Tensor | None,
    sinks: Tensor | None,
    *,
    scale: float,
    own: Part,
    prefix: PrefixPart | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Output [B, H, T, D] and log-sum-exp [B, H, T] of `MergedAttention`."""
    out, lse = own.attend(query, key, value, scale, softcap)
    if prefix is not None and prefix_key is not None and prefix_value is not None:
        if prefix_biases is None or softcap is not None:
            prefix_out, prefix_lse = prefix.attend(
                query, prefix_key, prefix_value, scale, softcap, prefix_biases
            )
        else:
            wide = widened(query, prefix_key, prefix_value, prefix_biases, scale)
            prefix_out, prefix_lse = prefix.attend(*wide, scale)
            prefix_out = narrowed(prefix_out)
        out, lse = merged_outputs(out, lse, prefix_out, prefix_lse)
    if sinks is not None:
        out, lse = with_sinks(out, lse, sinks)
    return out.to(query.dtype), lse


def merged_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor | None,
    prefix_value: Tensor | None,
    prefix_biases: Tensor | None,
    sinks: Tensor | None,
    out: Tensor,
    lse: Tensor,
    *,
    scale: float,
    own: Part,
    prefix: PrefixPart | None,
    softcap: float | None,
    wants_sinks: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of the seven tensors, from those of the output [B, H, T, D]."""
    # Flash attention reads [B, T, H, D], which is how gradients come; other kernels would copy.
    grad = grad if takes_flash(query, key, value) else grad.contiguous()
    d_query, d_key, d_value = own.gradients(grad, query, key, value, out, lse, scale, softcap)
    d_prefix_key = d_prefix_value = d_biases = d_sinks = None
    if prefix is not None and prefix_key is not None and prefix_value is not None:
        if prefix_biases is None or softcap is not None:
            more, d_prefix_key, d_prefix_value, *rest = prefix.gradients(
                *(grad, query, prefix_key, prefix_value, out, lse, scale, softcap, prefix_biases)
            )
            d_biases = rest[0] if rest else None
        else:
            wide = widened(query, prefix_key, prefix_value, prefix_biases, scale)
            more, d_prefix_key, d_prefix_value = prefix.gradients(
                widen_values(grad), *wide, widen_values(out), lse, scale
            )
            d_biases = gradient_of_biases(d_prefix_key, scale).to(prefix_biases.dtype)
            more, d_prefix_key, d_prefix_value = (narrowed(x) for x in (more, d_prefix_key, d_prefix_value))
        d_query = d_query.add_(more)
    if sinks is not None and wants_sinks:
        weights = (sinks.to(lse.dtype)[:, None] - lse).exp()
        d_sinks = -(weights * (grad.to(lse.dtype) * out.to(lse.dtype)).sum(-1)).sum((0, 2)).to(sinks.dtype)
    return d_query, d_key, d_value, d_prefix_key, d_prefix_value, d_biases, d_sinks
