"""How a frozen Hugging Face model reads a cartridge.

transformers lets a model's attention function be chosen by name. `reads_prefixes(model)` chooses ours for the length
of a ``with``; each forward call then says what it reads by one keyword argument, which transformers hands down to every
layer's attention:

    with reads_prefixes(model):
        model(input_ids, position_ids=..., reading=Reading(keys, values, ...))

`Reading` holds, per layer, the keys and values of a *prefix*: a cartridge, or the prefill of a chunk. All rows of the
batch share it; `MergedAttention` merges the attention to it with the causal attention among the row's own tokens, so it
is never copied. Rows may be a padded batch, or one row of packed sequences (`lengths`).

**Sliding-window layers** treat the prefix as what it stands for: tokens at positions 0..P-1. A token at position t sees
the prefix tokens j with t - j < window and no others, exactly as if they had been prefilled. Training, generation and
evaluation all go through this function, so they agree. A cartridge longer than the window is therefore partly unseen
by such layers; their part of it still trains for the tokens that see it.

Soft-capped scores (Gemma 2) and learned sinks (gpt-oss) are read as the models mean them. Refused by name: models that do
not use transformers' attention interface, attention that is not causal, and whatever else a layer hands to its attention
that is not known here to leave it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

from lit_cartridges.attention_kernels import additive_mask
from lit_cartridges.attention_parts import PackedPart, PrefixPart, RowsPart, SlicedPart
from lit_cartridges.merged_attention import MergedAttention

NAME = "lit_cartridges"
# What models, and `generate`, hand down to every layer's attention, which none of theirs reads.
_HARMLESS = frozenset(
    "is_causal position_ids cache_position position_embeddings use_cache return_dict output_hidden_states "
    "output_router_logits logits_to_keep num_items_in_batch deterministic tokenizer assistant_tokenizer".split()
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one forward call reads beside its own tokens.

    Args:
        keys, values: per layer [kv_heads, prefix_tokens, head_dim]; None when there is no prefix.
        biases: per layer [kv_heads, prefix_tokens], added to the scaled scores of the prefix's keys; None for none.
        position_ids: [batch, tokens], needed by sliding-window layers.
        lengths: tokens of each packed sequence, summing to the tokens of the single row; None for a padded batch.
        observe: called in every layer as ``observe(layer, query, scale, window, softcap)``, with the rotated queries
            [batch, heads, tokens, head_dim], the factor of their scores, and the layer's window in tokens and soft-cap, or
            None.
    """

    keys: Sequence[Tensor] | None = None
    values: Sequence[Tensor] | None = None
    biases: Sequence[Tensor] | None = None
    position_ids: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    observe: Callable[[int, Tensor, float, int | None, float | None], None] | None = None
    # The layout is the same in all layers, so it is made once: one entry per window width.
    _parts: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_tokens(self) -> int:
        """Tokens of the prefix."""
        return 0 if self.keys is None else self.keys[0].shape[-2]

    def own_part(self, query: Tensor, key: Tensor, padding: Tensor | None, window: int | None) -> Any:
        """How the rows' own tokens see each other."""
        id_ = ("own", window, id(padding), query.shape[2], key.shape[2])
        if id_ not in self._parts:
            if self.lengths is not None and query.device.type == "cpu":
                part: Any = SlicedPart(self.lengths, window)
            elif self.lengths is not None:
                part = PackedPart.of_lengths(self.lengths, window=window, device=query.device)
            else:
                part = _rows_part(query, key, padding, window)
            # The mask is kept beside the part, since an id means something only as long as its object lives.
            self._parts[id_] = (part, padding)
        return self._parts[id_][0]

    def prefix_part(self, query: Tensor, key: Tensor, window: int | None) -> PrefixPart:
        """How they see the prefix: all of it, unless the window hides some."""
        if window is None or self.num_tokens == 0:
            return PrefixPart()
        if ("prefix", window) not in self._parts:
            self._parts["prefix", window] = PrefixPart(self._window_mask(query, key, window))
        return self._parts["prefix", window]

    def _window_mask(self, query: Tensor, key: Tensor, window: int) -> Tensor | None:
        if self.position_ids is None:
            raise ValueError(
                "a prefix before a sliding-window layer needs position_ids; pass them to Reading"
            )
        positions = self.position_ids.expand(query.shape[0], -1)
        if int(positions.max()) < window:
            return None
        distance = positions.reshape(-1, 1) - torch.arange(self.num_tokens, device=query.device)
        groups = query.shape[1] // key.shape[1]
        return additive_mask(distance >= window, query.dtype).repeat(groups, 1)[None, None]


def _rows_part(query: Tensor, key: Tensor, padding: Tensor | None, window: int | None) -> RowsPart:
    """Rows [B, ·, T, D], whose last T of M keys are their own tokens; ``padding`` [B, M] is True where a key is real."""
    tokens, keys = query.shape[2], key.shape[2]
    if window is not None and window >= keys:
        window = None
    if padding is None and window is None:
        if tokens == keys:
            return RowsPart(causal=True)
        if tokens == 1:
            return RowsPart(causal=False)
    distance = torch.arange(keys - tokens, keys, device=query.device)[:, None] - torch.arange(
        keys, device=query.device
    )
    hidden = distance < 0
    if window is not None:
        hidden |= distance >= window
    hidden = hidden[None, None]
    if padding is not None:
        hidden = hidden | ~padding[:, None, None, :].bool()
    return RowsPart(causal=False, mask=additive_mask(hidden, query.dtype))


def refuse_extras(module: nn.Module, options: Mapping[str, Any]) -> None:
    """Raise ValueError when a layer's attention is given what no attention function of ours knows, or is not causal."""
    name = type(module).__name__
    causal = options.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise ValueError(
            f"{name} is not causal (is_causal=False), and cartridges and cascades are read causally"
        )
    extras = [
        key
        for key, given in options.items()
        if key not in _HARMLESS and given is not None and given is not False
    ]
    if extras:
        raise ValueError(
            f"{name} uses {', '.join(extras)} in its attention, which neither cartridges nor cascades know"
        )


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    reading: Reading | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer (see its AttentionInterface).

    Args:
        query: [batch, heads, tokens, head_dim], rotated.
        key, value: [batch, kv_heads, keys, head_dim], rotated, without the prefix.
        attention_mask: [batch, keys], True where a key is real, or None.
        softcap, s_aux: the soft-cap of the scores, and the sinks [heads]; see `MergedAttention`.

    Returns:
        Output [batch, tokens, heads, head_dim], contiguous as some models need it, and None (no attention weights).
    """
    refuse_extras(module, kwargs)
    if attention_mask is not None and attention_mask.ndim != 2:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; a model that reads a cartridge takes a "
            "[batch, tokens] mask"
        )
    reading = reading or Reading()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    own = reading.own_part(query, key, attention_mask, sliding_window)
    prefix_key = prefix_value = biases = prefix = None
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if reading.observe is not None:
        reading.observe(layer, query, scale, sliding_window, softcap)
    if reading.num_tokens > 0:
        assert reading.keys is not None and reading.values is not None
        prefix_key, prefix_value = reading.keys[layer].unsqueeze(0), reading.values[layer].unsqueeze(0)
        biases = None if reading.biases is None else reading.biases[layer]
        prefix = reading.prefix_part(query, key, sliding_window)
    out = MergedAttention.apply(
        *(query, key, value, prefix_key, prefix_value, scale, own, prefix, biases, softcap, s_aux)
    )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, prefix_attention)
# A [batch, keys] padding mask is all that `prefix_attention` needs; it knows causality and windows itself.
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, flash_attention_mask)


def require_readable(model: PreTrainedModel) -> None:
    """Raise ValueError, naming the model, when its attention cannot be given a prefix."""
    name = type(model).__name__
    if not model._can_set_attn_implementation():
        raise ValueError(
            f"{name} does not use transformers' attention interface, so it cannot read a cartridge; "
            "choose a model whose attention implementation can be set (Llama, Qwen, Mistral, Gemma, Phi, GPT-NeoX, …)"
        )
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    foreign = kinds - {"full_attention", "sliding_attention"}
    if foreign:
        raise ValueError(
            f"{name} has layers of type {', '.join(sorted(foreign))}, which keep no keys and values per token; "
            "a cartridge needs full_attention or sliding_attention layers"
        )


@contextmanager
def attends_by(model: PreTrainedModel, name: str) -> Iterator[None]:
    """The attention function registered as ``name`` inside, the model's own afterwards."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def reads_prefixes(model: PreTrainedModel) -> Iterator[None]:
    """Let ``model`` take the keyword ``reading`` in its forward call; its own attention function returns afterwards."""
    if model.config._attn_implementation == NAME:
        yield
        return
    require_readable(model)
    with attends_by(model, NAME):
        yield


@contextmanager
def reading_prefix(
    model: PreTrainedModel,
    keys: Sequence[Tensor] | None,
    values: Sequence[Tensor] | None,
    biases: Sequence[Tensor] | None = None,
) -> Iterator[None]:
    """Every forward call inside the ``with`` reads this prefix, for callers such as ``model.generate``.

    Args:
        keys, values: per layer [kv_heads, prefix_tokens, head_dim], in the model's dtype.
        biases: per layer [kv_heads, prefix_tokens], if the prefix has them.
    """

    def add_reading(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        positions = kwargs.get("position_ids")
        kwargs["reading"] = Reading(keys=keys, values=values, biases=biases, position_ids=positions)
        return args, kwargs

    with reads_prefixes(model):
        handle = model.register_forward_pre_hook(add_reading, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
