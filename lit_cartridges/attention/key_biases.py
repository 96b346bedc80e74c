"""A key's bias as one more coordinate of the key, so that every attention kernel reads it and returns its gradient.

A score of ``scale · q·k + bias`` is the plain score of wider vectors: the query gets a constant coordinate, the key one
that holds its bias over that constant, and the value zeros. Fused kernels, which take no bias that needs a gradient,
then stay in use (flash attention on CUDA too: no mask is made), and a bias's gradient is that of its coordinate.

Shapes: query [B, H, T, D] · key, value [1, K, P, D] · biases [K, P], one per key, shared by a KV head's query heads
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

# Flash attention needs head dims that are multiples of 8.
_COLUMNS = 8
# Biases beyond it, infinite ones among them, are this: far from what counts, and fp16 holds it.
_MOST = 3e4


def widened(
    query: Tensor, key: Tensor, value: Tensor, biases: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of width D + 8 whose plain scaled scores contain the biases.

    The bias is split over two coordinates, since one of 16 bits would round it by up to 1 part in 256.
    """
    unit, dim = _unit(scale), key.shape[-1]
    whole = (biases.float() / (scale * unit)).clamp(-_MOST, _MOST)
    high = whole.to(key.dtype)
    wide_query, wide_key = pad(query, (0, _COLUMNS)), pad(key, (0, _COLUMNS))
    wide_query[..., dim : dim + 2] = unit
    wide_key[..., dim] = high
    wide_key[..., dim + 1] = whole - high.float()
    return wide_query, wide_key, widen_values(value)


def widen_values(value: Tensor) -> Tensor:
    """Values, outputs or their gradients, of the width that goes with `widened` queries: zeros at the end."""
    return pad(value, (0, _COLUMNS))


def narrowed(wide: Tensor) -> Tensor:
    """What `widened` was made of."""
    return wide[..., :-_COLUMNS]


def gradient_of_biases(wide_key_gradient: Tensor, scale: float) -> Tensor:
    """Gradient [K, P] of the biases, in fp32, from the gradient [1, K, P, D + 8] of the widened keys."""
    return wide_key_gradient[0, ..., -_COLUMNS].to(torch.float32) / (scale * _unit(scale))


def _unit(scale: float) -> float:
    """The constant coordinate: a power of two, which no dtype rounds, that keeps biases near their own size."""
    return 2.0 ** round(-math.log2(scale))
