"""Caches of transformers behind a prefix: one that holds the rows' own tokens alone, and one that holds the prefix too.

`PrefixedCache` is for forward calls that read the prefix themselves (`attention.reading_prefix`): it reports the prefix as
already seen, so that transformers counts positions and masks from there, and copies it for no row.

`CartridgeCache` is for transformers alone, without us around it: it holds a copy of the prefix for every row. What
transformers would get wrong with such a cache, it refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from lit_cartridges.attention.cache_argument import cache_among


class PrefixedLayer(DynamicLayer):
    """One layer's keys and values [batch, kv_heads, own_tokens, head_dim] behind a prefix that is kept elsewhere."""

    def __init__(self, prefix_tokens: int) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens

    def get_seq_length(self) -> int:
        return self.prefix_tokens + super().get_seq_length()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return super().get_seq_length() + query_length, self.prefix_tokens

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if self.is_initialized:
            super().reorder_cache(beam_idx)  # type: ignore[arg-type]

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.is_initialized:
            super().batch_select_indices(indices)

    def crop(self, tokens: int) -> None:
        """Keep the first ``tokens``, prefix included, or drop the last ``-tokens``: transformers has done both."""
        super().crop(tokens - self.get_seq_length() if tokens > 0 else tokens)


class PrefixedCache(Cache):
    """An empty cache whose first free position is ``prefix_tokens``; to be used inside `attention.reading_prefix`."""

    def __init__(self, num_layers: int, prefix_tokens: int) -> None:
        super().__init__(layers=[PrefixedLayer(prefix_tokens) for _ in range(num_layers)])
        self.prefix_tokens = prefix_tokens
        self.own_ids: Tensor | None = None  # [batch, own_tokens], once `generation.generate` has returned it

    @property
    def own_tokens(self) -> int:
        """Tokens behind the prefix."""
        return int(self.get_seq_length()) - self.prefix_tokens


def prefixed_cache(num_layers: int, prefix_tokens: int) -> PrefixedCache:
    """See `PrefixedCache`."""
    return PrefixedCache(num_layers, prefix_tokens)


class CartridgeCache(DynamicCache):
    """A cartridge as a plain transformers cache, for any attention implementation.

    ``attention_mask`` must cover the cartridge as well as the tokens: [batch, held tokens + new tokens]. A mask of another
    width is refused, since transformers would leave out tokens or count their positions from 0. So is a second
    ``model.generate`` through a cache that has read something, in which a new question would stand behind the old one.

    Args:
        keys, values: per layer [kv_heads, num_tokens, head_dim].
        batch_size: rows. They are views until the first update, which copies.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], *, batch_size: int = 1) -> None:
        super().__init__()
        self.layers = [
            _HeldLayer(*(x.expand(batch_size, -1, -1, -1) for x in sides))
            for sides in zip(keys, values, strict=True)
        ]
        self._cartridge_tokens = keys[0].shape[-2]

    @property
    def _is_user_defined(self) -> bool:
        return True

    @_is_user_defined.setter
    def _is_user_defined(self, value: bool) -> None:
        """Transformers says so at the beginning of each ``generate``, and says nothing else then."""
        held = int(self.get_seq_length())
        if held != self._cartridge_tokens:
            raise ValueError(
                f"the cache holds {held - self._cartridge_tokens} tokens of an earlier call behind the cartridge; take a new "
                "cartridge.as_cache(...) for another question, and to go on use lit_cartridges.generation.generate, which "
                "takes the cache that it returned"
            )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return _HeldTokens(super().get_seq_length(layer_idx))

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        reach, offset = super().get_mask_sizes(query_length, layer_idx)
        return _MaskWidth(reach), offset


class _HeldLayer(DynamicLayer):
    """Keys and values [batch, kv_heads, num_tokens, head_dim], in dtype and place of what is read behind them."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self._held = key, value
        self.reset()

    def reset(self) -> None:
        """Forget all but the cartridge."""
        super().reset()
        self.lazy_initialization(*self._held)
        self.keys, self.values = self._held

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        held: Any = self
        self.keys, self.values = held.keys.to(key_states), held.values.to(value_states)
        return super().update(key_states, value_states, *args, **kwargs)


class _HeldTokens(int):
    """Tokens of a cache. transformers takes them off the prompt's where the mask covers the prompt alone."""

    def __rsub__(self, tokens: int) -> int:
        raise ValueError(
            f"attention_mask covers the {tokens} tokens of the prompt, and the cache holds {int(self)} in front of them; "
            f"give attention_mask=torch.ones(batch, {int(self) + tokens}), or use cartridge.attach(model, tokenizer)"
        )


class _MaskWidth(int):
    """Tokens that a mask must cover. transformers fills up a narrower one with tokens that nobody sees."""

    def __add__(self, offset: int) -> _MaskWidth:
        return _MaskWidth(int(self) + offset)

    def __sub__(self, covered: int) -> int:
        if int(self) != covered:
            raise ValueError(
                f"attention_mask covers {covered} tokens, and with the new ones the cache holds {int(self)}; for a new "
                "question take a new cartridge.as_cache(...), to go on let the mask cover all of them"
            )
        return 0


def without_read_tokens(keywords: dict[str, Any]) -> dict[str, Any]:
    """A forward call's keywords with those tokens left out that a `PrefixedCache` which goes on has read already.

    ``generate`` leaves them out itself, but not where positions come before its first token, as they do behind a prefix.
    """
    cache, ids = cache_among(keywords), keywords.get("input_ids")
    if not isinstance(cache, PrefixedCache) or cache.own_ids is None or ids is None:
        return keywords
    read, cache.own_ids = cache.own_ids, None
    count = read.shape[1]
    if not torch.equal(ids[:, :count], read):
        return keywords
    kept = {"input_ids": ids[:, count:]}
    if (positions := keywords.get("position_ids")) is not None:
        kept["position_ids"] = positions[..., count:]
    return {**keywords, **kept}


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
