"""Generating text from one or more cartridges, by transformers' own `generate`.

The cache handed to `generate` holds only what each row adds; its `PrefixedLayer`s report the prefix as already seen, so
that transformers counts positions and masks from there, and `reading_prefix` gives the prefix itself to the attention.
It is read by all rows and copied for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from lit_cartridges.attention import reading_prefix

if TYPE_CHECKING:
    from lit_cartridges.cartridge import Cartridge


class PrefixedLayer(DynamicLayer):
    """One layer's keys and values [batch, kv_heads, own_tokens, head_dim] behind a prefix that is kept elsewhere."""

    def __init__(self, prefix_tokens: int) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens

    def get_seq_length(self) -> int:
        return self.prefix_tokens + super().get_seq_length()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return super().get_seq_length() + query_length, self.prefix_tokens


def prefixed_cache(num_layers: int, prefix_tokens: int) -> Cache:
    """An empty cache whose first free position is ``prefix_tokens``; to be used inside `reading_prefix`."""
    return Cache(layers=[PrefixedLayer(prefix_tokens) for _ in range(num_layers)])


def left_padded(
    sequences: Sequence[Sequence[int]], pad: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Token ids [sequences, tokens] with ``pad`` in front of the shorter ones, and a mask that is 0 there."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.as_tensor(list(sequence))
        mask[row, width - len(sequence) :] = 1
    return ids.to(device), mask.to(device)


@torch.no_grad()
def generate(
    model: Any,
    cartridges: Cartridge | Sequence[Cartridge] | None,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> Any:
    """Generate as ``model.generate`` does, with cartridges in front of every row.

    Args:
        cartridges: one; several, which are composed; or none.
        input_ids: [batch, tokens], padded on the left where prompts differ in length.
        attention_mask: [batch, tokens], 0 where padded; None when nothing is.
        options: anything `model.generate` takes: ``do_sample``, ``temperature``, ``streamer``, ``stop_strings`` with
            ``tokenizer``, ``max_new_tokens``, …

    Returns:
        What ``model.generate`` returns: token ids [batch, tokens + new tokens], prompts included, cartridges not.

    Raises:
        ValueError: a cartridge was made for a model of another shape (the message names the difference).
    """
    from lit_cartridges.cartridge import Cartridge

    if cartridges is None:
        return model.generate(input_ids, attention_mask=attention_mask, **options)
    cartridge = cartridges if isinstance(cartridges, Cartridge) else Cartridge.compose(list(cartridges))
    cartridge.require_fit(model)
    keys, values = cartridge.tensors(dtype=model.dtype, device=input_ids.device)
    biases = cartridge.biases(device=input_ids.device)
    return generate_from_prefix(model, keys, values, input_ids, attention_mask, biases=biases, **options)


@torch.no_grad()
def generate_from_prefix(
    model: Any,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    biases: Sequence[Tensor] | None = None,
    **options: Any,
) -> Any:
    """`generate` from bare keys and values, per layer [kv_heads, prefix_tokens, head_dim], and their biases, if any."""
    prefix_tokens = keys[0].shape[-2]
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    seen = attention_mask.new_ones(len(input_ids), prefix_tokens)
    # Not in a caller's autocast: the model reads in the dtype that it was loaded in.
    own = torch.autocast(input_ids.device.type, enabled=False)
    with reading_prefix(model, keys, values, biases), own:
        return model.generate(
            input_ids,
            attention_mask=torch.cat([seen, attention_mask], dim=1),
            past_key_values=prefixed_cache(len(keys), prefix_tokens),
            **options,
        )
