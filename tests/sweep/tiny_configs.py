"""Any config class of transformers, made tiny: a few layers of each kind, width 64, windows small enough to hide tokens.

One function for all: it takes the class's own defaults and shrinks each number by the field's name. What a name cannot tell
stands in `OVERRIDES`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from tests.sweep.overrides import HEAD_DIM, OVERRIDES, VARIANTS, WINDOW

VOCAB, WIDTH, HEADS, KV_HEADS, LAYERS, POSITIONS = 320, 64, 4, 2, 2, 512
# Ids up to here are text; special tokens have the ids above.
TEXT_IDS = 280

# A field's name, as a whole, and the most that it may be. Defaults that are smaller stay.
_LIMITS = [
    (r".*vocab_size(_per_layer_input)?|.*vocab", VOCAB),
    (r"(num_|n_|decoder_|encoder_)?(hidden_|encoder_|decoder_)?layers?|depth|num_layers_per_stack", LAYERS),
    (r"num_kv_heads|kv_n_heads|(swa_|global_)?num(_global)?_key_value_heads", KV_HEADS),
    (r"(\w+_)?(num_|n_)?(attention_|sliding_attention_)?heads?|num_heads|n_heads?|\w*_num_heads", HEADS),
    (r"kv_lora_rank|q_lora_rank|o_lora_rank|\w+_rank|\w*_lowrank", 16),
    (r"qk_rope_head_dim|qk_nope_head_dim", 8),
    (r"v_head_dim", 12),
    (r"qk_head_dim", 16),
    (r"rotary_dim", 8),
    (
        r"(swa_|index_|linear_|attention_|linear_key_|linear_value_)?head_(dim|size)|kv_channels|d_head|d_kv|dim_head|d_rel",
        HEAD_DIM,
    ),
    (r"global_head_dim", 2 * HEAD_DIM),
    (r"moe_intermediate_size|moe_\w*_size|shared_\w*intermediate_size|expert_\w*_size|share_expert_dim", 32),
    (r"(n_routed|num|num_local|moe_num|zero)_experts?(_num)?", 4),
    (r"(num_|n_|moe_num_)shared_experts", 1),
    (r"num_experts_per_tok|moe_k|moe_topk|moe_top_k|topk_group|n_group", 2),
    (r"first_k_dense_replace|num_dense_layers", 1),
    (
        r"index_topk|attention_chunk_size|sliding_window(_size)?|local_attention|attention_window_size|\w*chunk_length|window_size",
        WINDOW,
    ),
    (
        r"(original_)?max_(position_embeddings|seq_len|target_positions|source_positions)|n_positions|n_ctx|seq_len|context_length",
        POSITIONS,
    ),
    (r"\w*image_size|crop_size|resolution", 28),
    (r"patch_size", 14),
    (r"\w*(chunk_size|block_size)", 16),
    (
        r"\w*(hidden_size\w*|intermediate_size\w*|ffn_dim|_dim|_ff|_width|dff|d_model|n_embd|n_inner|d_inner|dim|_channels?|d_state)",
        WIDTH,
    ),
    (r"embedding_size|input_size|\w*embed_dim|\w+_channel", WIDTH),
]
_SPECIAL = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "sep_token_id": 3,
    "cls_token_id": 4,
}
_KEPT = r"(num_|in_|out_|audio_)channels|hidden_sizes|channel_multiplier|\w+_(kernel_size|conv|dropout\w*)"
_LAYER_KINDS = ("layer_types", "layers_block_type", "mlp_layer_types", "attn_layers", "block_types")


def tiny_config(model_type: str, variant: str = "") -> PretrainedConfig:
    """The smallest config of this model type that still has its every kind of layer, or a `variants` one."""
    cls = CONFIG_MAPPING[model_type]
    more = variants(model_type)[variant] if variant else {}
    return cls(**tiny_settings(cls()) | OVERRIDES.get(model_type, {}) | more)


def is_encoder(model_type: str) -> bool:
    """Whether the type is one that fills in masked words, and a decoder only where its config says so."""
    cls = CONFIG_MAPPING[model_type]
    return (
        cls in MODEL_FOR_MASKED_LM_MAPPING
        and any(field.name == "is_decoder" for field in dataclasses.fields(cls))
        and (not getattr(cls, "is_encoder_decoder", False))
    )


def variants(model_type: str) -> dict[str, dict[str, Any]]:
    """Further configs worth trying, by name: those listed, and what the class offers and leaves out by default.

    "decoder": a class that is an encoder unless told. "windows": layers of sliding windows among full ones.
    """
    found = dict(VARIANTS.get(model_type, {}))
    fields = {field.name: field.default for field in dataclasses.fields(CONFIG_MAPPING[model_type])}
    if is_encoder(model_type):
        found["decoder"] = {"is_decoder": True}
    if "layer_types" in fields and "sliding_window" in fields:
        try:
            kinds = tiny_config(model_type).layer_types
        except Exception:  # the type itself will be reported
            return found
        if set(kinds or ()) == {"full_attention"} and len(kinds) > 1:
            mixed = ["sliding_attention", "full_attention"] * len(kinds)
            found["windows"] = {"layer_types": mixed[: len(kinds)], "sliding_window": WINDOW}
            if "use_sliding_window" in fields:
                found["windows"]["use_sliding_window"] = True
    return found


def tiny_settings(config: PretrainedConfig, ids: list[int] | None = None) -> dict[str, Any]:
    """Keywords that make a tiny config of this one's class."""
    ids = ids if ids is not None else [TEXT_IDS + 10]
    values = config.to_dict()
    layers = _chosen_layers(values)
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        name = field.name
        value = values[name] if name in values else vars(config).get(config.attribute_map.get(name, name))
        if name in config.sub_configs:
            sub = getattr(config, name)
            if isinstance(sub, PretrainedConfig):
                settings[name] = (
                    tiny_settings(sub, ids)
                    | OVERRIDES.get(sub.model_type, {})
                    | {"model_type": sub.model_type}
                )
        elif name.startswith(("id2", "label2")) or name in (
            "transformers_version",
            "model_type",
            "architectures",
        ):
            continue
        elif (
            value is None
            or field.default is None
            and isinstance(value, int)
            and value == type(config)().to_dict().get(name)
        ):
            continue  # the class works it out from other numbers
        else:
            small = _small(name, value, layers, ids)
            if name == "num_key_value_heads" and value == values.get("num_attention_heads"):
                small = HEADS
            if small != field.default and not isinstance(small, dict):
                settings[name] = small
    if rope := _rope(values, settings):
        settings["rope_parameters"] = rope
    return settings


def _chosen_layers(defaults: dict[str, Any]) -> tuple[int, list[int]]:
    """How many layers there are by default, and which to keep: one of each kind, and at least `LAYERS`."""
    count = next(
        (
            defaults[n]
            for n in ("num_hidden_layers", "n_layer", "num_layers", "decoder_layers")
            if isinstance(defaults.get(n), int)
        ),
        0,
    )
    rows = [
        defaults[n]
        for n in _LAYER_KINDS
        if isinstance(defaults.get(n), (list, tuple)) and len(defaults[n]) == count
    ]
    kinds = list(zip(*rows, strict=True)) if rows else []
    first = sorted({kind: kinds.index(kind) for kind in kinds}.values())
    rest = [i for i in range(count - 1, -1, -1) if i not in first]
    return count, sorted(first + rest[: max(0, LAYERS - len(first))])


def _small(name: str, value: Any, layers: tuple[int, list[int]], ids: list[int]) -> Any:
    count, kept = layers
    if isinstance(value, (list, tuple)) and len(value) == count and count > 0:
        return [_small(name + "_each", value[i], (0, []), ids) for i in kept]
    if name in _SPECIAL:
        return _SPECIAL[name] if value is not None else None
    if isinstance(value, bool) or not isinstance(value, int) or re.fullmatch(_KEPT, name):
        return value
    if re.fullmatch(r"\w+_(token_id|token_index|id|index)", name) and value > 4:
        ids[0] += 1
        return ids[0]
    if name in ("num_hidden_layers", "n_layer", "num_layers", "decoder_layers") and count:
        return len(kept)
    for pattern, limit in _LIMITS:
        if re.fullmatch(pattern, name):
            return min(value, limit) if value > limit else value
    return value


def _rope(defaults: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any] | None:
    """Sections of multimodal rotary positions, made to fill half a head."""
    rope = defaults.get("rope_parameters")
    if not isinstance(rope, dict) or "mrope_section" not in rope:
        return None
    section = rope["mrope_section"]
    half = int((settings.get("head_dim") or HEAD_DIM) * rope.get("partial_rotary_factor", 1.0)) // 2
    small = [max(1, round(x * half / sum(section))) for x in section]
    small[0] += half - sum(small)
    return rope | {"mrope_section": small}
