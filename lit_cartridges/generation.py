"""Generating text from one or more cartridges, by transformers' own `generate`.

The cache handed to `generate` holds only what each row adds (`PrefixedCache`), and `reading_prefix` gives the prefix itself
to the attention. It is read by all rows and copied for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from lit_cartridges.attention import reading_prefix
from lit_cartridges.attention.cache_argument import CACHE_NAME, cache_among, cache_argument, cache_of
from lit_cartridges.attention.prefixed_cache import PrefixedCache, left_padded, prefixed_cache
from lit_cartridges.models.position_limit import warn_beyond_positions
from lit_cartridges.models.readable import unwrapped

if TYPE_CHECKING:
    from lit_cartridges.cartridge import Cartridge

__all__ = ["generate", "generate_from_prefix", "greedy", "left_padded", "pad_token_id", "prefixed_cache"]


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
        model: a causal LM of transformers, bare or inside of torch.compile's, PEFT's or a data-parallel wrapper.
        cartridges: one; several, which are composed; or none.
        input_ids: [batch, tokens], padded on the left where prompts differ in length.
        attention_mask: [batch, tokens], 0 where padded; None when nothing is.
        options: anything `model.generate` takes: ``do_sample``, ``temperature``, ``streamer``, ``stop_strings`` with
            ``tokenizer``, ``max_new_tokens``, … ``past_key_values`` may be the cache that an earlier call with the same
            cartridges returned (``return_dict_in_generate=True``): ``input_ids`` then begin with what it has read, and
            only the rest is read now.

    Returns:
        What ``model.generate`` returns: token ids [batch, tokens + new tokens], prompts included, cartridges not.

    Raises:
        ValueError: a cartridge was made for a model of another shape (the message names the difference); a model that
            cannot read one; an option that cannot be honoured behind a cartridge.
    """
    bare = unwrapped(model)
    if cartridges is None:
        return generate_from_prefix(bare, None, None, input_ids, attention_mask, **options)
    cartridge = cartridges[0].compose(cartridges) if isinstance(cartridges, Sequence) else cartridges
    cartridge.require_fit(bare)
    keys, values = cartridge.tensors(dtype=bare.dtype, device=input_ids.device)
    biases = cartridge.biases(device=input_ids.device)
    return generate_from_prefix(bare, keys, values, input_ids, attention_mask, biases=biases, **options)


def greedy(stop_token_ids: Sequence[int], max_new_tokens: int) -> GenerationConfig:
    """Decoding that takes the likeliest token until a stop token.

    What is not said here, transformers takes from the model's own defaults: those that sample, search, punish or forbid
    repetition are said, and tokens that the model's makers ban stay banned.
    """
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=0,
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        guidance_scale=1.0,
        eos_token_id=list(stop_token_ids) or None,
        pad_token_id=pad_token_id(stop_token_ids),
    )


def sampled(stop_token_ids: Sequence[int], max_new_tokens: int, temperature: float) -> GenerationConfig:
    """Decoding that draws from the whole distribution at ``temperature``, which is above 0."""
    config = greedy(stop_token_ids, max_new_tokens)
    config.update(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
    return config


def pad_token_id(stop_token_ids: Sequence[int]) -> int:
    """What fills a batch beside its texts, and behind their ends; it is masked, so any token does."""
    return stop_token_ids[0] if stop_token_ids else 0


@torch.no_grad()
def generate_from_prefix(
    model: Any,
    keys: Sequence[Tensor] | None,
    values: Sequence[Tensor] | None,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    biases: Sequence[Tensor] | None = None,
    **options: Any,
) -> Any:
    """`generate` from bare keys and values, per layer [kv_heads, prefix_tokens, head_dim], and their biases, if any."""
    model = unwrapped(model)
    prefix_tokens = 0 if keys is None else keys[0].shape[-2]
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    cache = _own_cache(model, prefix_tokens, input_ids, options)
    warn_beyond_positions(model, prefix_tokens + input_ids.shape[1], options)
    mask = torch.cat([attention_mask.new_ones(len(input_ids), prefix_tokens), attention_mask], dim=1)
    # Said aloud: left to themselves, models that read images too remember positions of an earlier call.
    options.setdefault("position_ids", (mask.long().cumsum(1) - 1).clamp(min=0))
    # Not in a caller's autocast: the model reads in the dtype that it was loaded in.
    own = torch.autocast(input_ids.device.type, enabled=False)
    with reading_prefix(model, keys, values, biases), own:
        out = model.generate(input_ids, attention_mask=mask, **cache_argument(cache), **options)
    if isinstance(read := cache_of(out), PrefixedCache):
        # The last token was chosen and not read.
        read.own_ids = out.sequences[:, : read.own_tokens]
    return out


def _own_cache(
    model: Any, prefix_tokens: int, input_ids: Tensor, options: dict[str, Any]
) -> PrefixedCache | None:
    """The cache for what the rows add, with ``options`` freed of what asks for another; None where none is wanted.

    Raises:
        ValueError: an option that asks for another kind of cache, or a cache that does not hold this prefix and text.
    """
    config = options.get("generation_config") or model.generation_config

    def wanted(name: str) -> Any:
        return options[name] if options.get(name) is not None else getattr(config, name, None)

    given = cache_among(options)
    for name in ("cache", "past_key_values"):
        options.pop(name, None)
    if (kind := wanted("cache_implementation")) not in (None, "dynamic"):
        raise ValueError(
            f"cache_implementation={kind!r}: behind a cartridge, the tokens of the rows are held in a dynamic cache; leave "
            "it out"
        )
    options.pop("cache_implementation", None)
    if wanted("use_cache") is False:
        if given is not None:
            raise ValueError(f"use_cache=False and {CACHE_NAME} were both given; leave one of them out")
        return None
    if given is None:
        return prefixed_cache(model.config.get_text_config().num_hidden_layers, prefix_tokens)
    if not isinstance(given, PrefixedCache):
        raise ValueError(
            f"{CACHE_NAME} is a {type(given).__name__}; behind a cartridge it can only be what an earlier call with the same "
            "cartridge returned. Leave it out, or call model.generate with cartridge.as_cache(model)"
        )
    held = given.own_ids
    if given.prefix_tokens != prefix_tokens or held is None or given.own_tokens != held.shape[1]:
        raise ValueError(
            f"{CACHE_NAME} was made behind {given.prefix_tokens} positions, or has been used since it was returned, and the "
            f"cartridge has {prefix_tokens}; give the cache that the last call with the same cartridge returned, as it was"
        )
    if held.shape[1] >= input_ids.shape[1] or not torch.equal(input_ids[:, : held.shape[1]], held):
        raise ValueError(
            f"input_ids do not begin with the {held.shape[1]} tokens that {CACHE_NAME} has read; to go on, give all tokens so "
            "far and at least one more, and for another question leave the cache out"
        )
    if (wanted("num_beams") or 1) > 1 or (wanted("num_return_sequences") or 1) > 1:
        raise ValueError(
            f"num_beams and num_return_sequences above 1 would share {CACHE_NAME}; leave the cache out"
        )
    return given
