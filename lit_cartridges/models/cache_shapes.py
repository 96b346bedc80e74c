"""Which shapes a model's cache has, read off its config, and where a cartridge's tensors have others.

Most configs name one number of kv heads and one head dimension, and some name them layer by layer. Where several are
named of which the layer cannot be told (latent attention, sliding layers of their own size), a layer may have any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

_HEADS = ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_global_key_value_heads")
_QUERIES = ("num_attention_heads", "decoder_attention_heads")
_DIMS = ("head_dim", "swa_head_dim", "global_head_dim", "v_head_dim", "dim_head")
_LATENT = ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim")


def shape_differences(
    keys: Sequence[Tensor], values: Sequence[Tensor], config: PretrainedConfig
) -> list[str]:
    """One line per way in which keys and values [kv_heads, num_tokens, head_dim] per layer cannot be that model's."""
    text = config.get_text_config()
    layers = text.num_hidden_layers
    shared = getattr(text, "num_kv_shared_layers", None) or 0
    differences = (
        [] if len(keys) in (layers, layers - shared) else [f"num_layers: {len(keys)} against {layers}"]
    )
    wrong: dict[str, list[int]] = {}
    for layer, (own, *pair) in enumerate(zip(_layer_configs(text, len(keys)), keys, values, strict=True)):
        for name, axis, theirs in (("num_kv_heads", 0, _heads(own)), ("head_dim", -1, _dims(own))):
            for mine in {x.shape[axis] for x in pair} - theirs:
                told = f"{name}: {mine} against {' or '.join(map(str, sorted(theirs)))}"
                wrong.setdefault(told, []).append(layer)
    return differences + [
        told if len(where) == len(keys) else f"{told} in layer {', '.join(map(str, where[:8]))}"
        for told, where in wrong.items()
    ]


def _layer_configs(text: Any, layers: int) -> list[Any]:
    """The config of each layer: the same for all, unless it refuses to speak for all of them."""
    try:
        _numbers(text, (*_HEADS, *_DIMS))
        return [text] * layers
    except RuntimeError:
        return [text.per_layer_config[min(layer, text.num_hidden_layers - 1)] for layer in range(layers)]


def _heads(text: Any) -> set[int]:
    found, queries = _numbers(text, _HEADS), _numbers(text, _QUERIES)
    # A config without the usual name says in many ways whether all query heads share one key; latents may be one head.
    unsaid = not found or hasattr(text, "multi_query") or hasattr(text, "kv_lora_rank")
    # A config that does not declare the name carries it along unread, as GPT-NeoX does.
    unsaid |= not any(hasattr(type(text), name) for name in _HEADS)
    return found | {1} | queries if unsaid else found


def _dims(text: Any) -> set[int]:
    found = _numbers(text, _DIMS)
    latent = [n for name in _LATENT for n in _numbers(text, (name,))]
    if len(latent) == len(_LATENT):
        rank, rope, plain = latent
        found |= {rank, rope, plain, rank + rope, plain + rope}
    width = getattr(text, "hidden_size", None)
    if not _numbers(text, ("head_dim",)) and width:
        found |= {width // heads for heads in _numbers(text, _QUERIES)}
    return found


def _numbers(text: Any, names: Sequence[str]) -> set[int]:
    held = [getattr(text, name, None) for name in names]
    return {n for value in held for n in (value if isinstance(value, (list, tuple)) else [value]) if n}
