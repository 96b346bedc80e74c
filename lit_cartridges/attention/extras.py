"""What a layer hands to its attention beside queries, keys and values: read, without effect, or refused by name.

A soft-cap bends every score (Gemma 2); a sink is the score of one more key per head, whose value is zero (gpt-oss). Nobody
can say what a keyword that is not known here would do, so it is refused.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from lit_cartridges.attention.readers import LayerCall

# What models and `generate` hand down to every layer, and no attention of theirs reads.
_WITHOUT_EFFECT = frozenset(
    "is_causal position_ids cache_position position_embeddings use_cache return_dict output_hidden_states "
    "output_router_logits output_attentions logits_to_keep num_items_in_batch deterministic tokenizer assistant_tokenizer".split()
)
_READ = frozenset(("softcap", "s_aux"))


class AttentionExtras(NamedTuple):
    """What attention has beside scale and window."""

    softcap: float | None = None
    """Scores s become softcap · tanh(s / softcap), before masks and biases."""
    sinks: Tensor | None = None
    """[query heads]."""


PLAIN = AttentionExtras()


def known_extras(call: LayerCall) -> AttentionExtras:
    """What the layer's attention has beside scale and window.

    Raises:
        ValueError: it has something that neither cartridges nor cascades know, or is not causal; the message names both.
    """
    if call.extras.get("is_causal") is False:
        raise ValueError(
            f"layer {call.layer} attends in both directions (is_causal=False), and cartridges and cascades are read causally"
        )
    if call.extras.get("output_attentions"):
        warnings.warn(
            "output_attentions=True: what reads a cartridge or a cascade gives no attention weights; they are None",
            stacklevel=2,
        )
    strange = [
        name
        for name, given in call.extras.items()
        if name not in _WITHOUT_EFFECT | _READ and given is not None and given is not False
    ]
    if strange:
        raise ValueError(
            f"layer {call.layer} uses {', '.join(strange)} in its attention, which neither cartridges nor cascades know; "
            "leave it out of the call, or choose another model"
        )
    return AttentionExtras(call.extras.get("softcap"), call.extras.get("s_aux"))


def cached_heads(key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor) -> Tensor | None:
    """Which of the prefix's heads [1, K, P, D] each head of the rows' own ``key`` and ``value`` is; None for the same.

    Some models repeat the heads of what they have cached before they attend to it (JetMoE, all of them in turn).

    Raises:
        ValueError: the own heads are no such repetition, or are of another width.
    """
    heads, own = prefix_key.shape[1], key.shape[1]
    same_width = key.shape[-1] == prefix_key.shape[-1] and value.shape[-1] == prefix_value.shape[-1]
    if own == heads and same_width:
        return None
    places = torch.arange(own, device=key.device)
    if same_width and own % heads == 0:
        times = own // heads
        for order, first in ((places % heads, places % heads), (places // times, places // times * times)):
            if torch.equal(key, key[:, first]) and torch.equal(value, value[:, first]):
                return order
    raise ValueError(
        f"attention takes {own} heads of keys {key.shape[-1]} and values {value.shape[-1]} wide, and the cartridge holds "
        f"{heads} of {prefix_key.shape[-1]} and {prefix_value.shape[-1]}: the model caches other keys and values than it "
        "attends to; choose another model"
    )
