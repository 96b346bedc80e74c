"""Initial weights from which a two-layer model begins to look things up at once.

In the spirit of mimetic initialization (Trockman and Kolter, arXiv 2305.09828): instead of waiting for gradient descent to
find it, weights start near the known shape of a lookup in two layers. Deviation: theirs makes products of query and key,
and of value and output, near multiples of the identity; here the two layers get different parts. Everything stays
trainable, and nothing here knows a word of the language.

1. In the first layer, some heads look back by 1, 2, ... tokens (query and key biases under RoPE) and note what they see in a
   subspace U, as P times the token's embedding.
2. In the second layer, queries and keys both read U, so that a token attends to tokens that follow the same words.
3. The second layer's values, turned by a rotation R, are what the output reads: what is attended to becomes likely.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaForCausalLM

_STRENGTH = 5.0  # of the looking-back biases
_NOTE = 0.15  # of what the first layer writes
_COPY = 0.15  # of what the second layer writes
_SLOW = 0.01  # radians per token under which a RoPE frequency leaves content in place over a text


@torch.no_grad()
def initialize_lookup(
    model: LlamaForCausalLM, distances: list[int], embedding_std: float, output_std: float
) -> None:
    """Overwrites the initial weights of a two-layer model with biases on its projections and untied embeddings.

    Args:
        model: the model, in place.
        distances: distances in tokens at which the first heads of the first layer look back;
            those without a head are left out.
        embedding_std, output_std: standard deviations of the input and output embeddings.
    """
    config: Any = model.config
    size, heads = model.config.hidden_size, model.config.num_attention_heads
    dim = size // heads
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(dim // 2) * 2 / dim)
    p, u = torch.linalg.qr(torch.randn(size, dim))[0].T, torch.linalg.qr(torch.randn(size, dim))[0]
    for head, distance in enumerate(distances[:heads]):
        rows = slice(head * dim, (head + 1) * dim)
        _look_back(first, rows, frequencies, distance)
        first.v_proj.weight[rows] = p
        first.o_proj.weight[:, rows] = _NOTE * u
    slow = torch.cat([frequencies, frequencies]) < _SLOW
    for head in range(heads):
        reading = torch.zeros(dim, size)
        reading[slow] = u.T[torch.randperm(dim)[: int(slow.sum())]]
        rows = slice(head * dim, (head + 1) * dim)
        second.q_proj.weight[rows] += reading
        second.k_proj.weight[rows] += reading
    turn = torch.linalg.qr(torch.randn(size, size))[0]
    second.v_proj.weight.copy_(torch.eye(size))
    second.o_proj.weight.copy_(_COPY * turn)
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_(std=embedding_std)
    model.lm_head.weight.copy_(output_std / embedding_std * embeddings @ turn.T)


def _look_back(attention: Any, rows: slice, frequencies: torch.Tensor, distance: int) -> None:
    """Biases that make the head of these rows attend `distance` tokens back.

    With RoPE the two biases give the score sum over frequencies f of strength^2 cos(f (d - distance)) / sqrt(head_dim) at
    distance d, whatever the words.
    """
    half, angles = len(frequencies), frequencies * distance
    attention.q_proj.bias[rows] = torch.cat([torch.full((half,), _STRENGTH), torch.zeros(half)])
    attention.k_proj.bias[rows] = _STRENGTH * torch.cat([angles.cos(), angles.sin()])
