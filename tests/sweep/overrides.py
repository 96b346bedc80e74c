"""What a model's tiny config needs beside the generic shrinking, by the model type of the config that it goes into."""

from __future__ import annotations

from typing import Any

WINDOW, HEAD_DIM = 24, 16


def _rope(*sections: int, partial: float = 1.0) -> dict[str, Any]:
    """Rotary positions in sections [time, height, width] that fill half of a head's rotated part."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}
    return {"rope_parameters": rope | {"partial_rotary_factor": partial}}


_ALTERNATING = ["sliding_attention", "full_attention"]
_LATENT = {"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16}
_LATENT |= {"head_dim": HEAD_DIM, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12}
_INDEXER = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": HEAD_DIM}

OVERRIDES: dict[str, dict[str, Any]] = {
    # Sections of multimodal rotary positions whose defaults live in the modeling code.
    **dict.fromkeys(
        ("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text", "paddleocr_vl_text"), _rope(2, 3, 3)
    ),
    **dict.fromkeys(("glm4v_text", "glm46v_text"), _rope(2, 3, 3)),
    **dict.fromkeys(("glm4v_moe_text", "glm_ocr_text", "glmga_text"), _rope(1, 1, 2, partial=0.5)),
    "ernie4_5_vl_moe_text": _rope(3, 3, 2),
    "hunyuan_vl_text": {"head_dim": HEAD_DIM, **_rope(2, 2, 2, 2)},
    "cohere_compass_text": {
        "layer_types": _ALTERNATING,
        "rope_parameters": {kind: _rope(2, 3, 3)["rope_parameters"] for kind in _ALTERNATING},
    },
    # Sizes that must agree with each other.
    **dict.fromkeys(("bamba", "granitemoehybrid"), {"mamba_n_heads": 4, "mamba_d_head": 32}),
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_ssm": 64},
    "mamba2": {"num_heads": 8, "head_dim": HEAD_DIM},
    "nemotron_h": {"n_groups": 2},
    "longcat_flash": {"head_dim": 8},
    "glm5_next_text": {"index_topk": 32},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [32, 32], "axial_pos_shape": [32, 16]},
    "dots3_note_audio_encoder": {"adapter_input_size": 64},
    "dots3_note_text": {f"swa_{name}": size for name, size in _LATENT.items()},
    "apertus1p5": {"image_token_offset": 320, "audio_token_offset": 336},
    "apertus1p5_text": {"vocab_size": 352, "output_vocab_size": 352},
    **dict.fromkeys(("apertus1p5_vision_tokenizer", "wavtokenizer_encoder"), {"codebook_size": 16}),
    "hy_v4_vl_text": _rope(2, 1, 1),
    "molmo2_adapter": {"vision_feature_layer": [1, 0]},
    # Sizes that the class leaves open.
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"), {"head_dim": HEAD_DIM}),
    "nemotron": {"num_key_value_heads": 2, "head_dim": HEAD_DIM},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4},
    "deepseek_ocr2_text": {"num_experts_per_tok": 2, "mlp_layer_types": ["dense", "sparse"]},
    "dots1": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32},
    "qwen4_exp_text": {**_INDEXER, "indexer_budget": WINDOW, "indexer_compress_ratio": 4},
    "step3p5": {"sliding_window": WINDOW},
    # Layers of each kind, as released models have them.
    **dict.fromkeys(("lfm2", "lfm2_moe"), {"layer_types": ["conv", "full_attention"]}),
    "dory": {
        "num_hidden_layers": 3,
        "layer_types": [*_ALTERNATING, "full_attention"],
        "n_input_layers": 1,
        "n_output_layers": 1,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": _ALTERNATING * 2,
        "num_kv_shared_layers": 2,
        "intermediate_size": 64,
        "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
    },
    # What has no number.
    "chameleon": {"vocabulary_map": {"<image>": 300}},
    "granite4_vision": {"deepstack_layer_map": [(-1, 0)], "downsample_rate": "1/2"},
    **dict.fromkeys(("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"), {"vision_start_token_id": 301}),
    "xmod": {"default_language": "en_XX"},
}

# Further configs of a type, by a name of their own: forms that released models have and the defaults do not.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "gemma4_text": {
        "shared KV": {"num_hidden_layers": 4, "layer_types": _ALTERNATING * 2, "num_kv_shared_layers": 2},
    },
    "gpt_bigcode": {"multi-head": {"multi_query": False}},
    "granitemoehybrid": {"attention only": {"layer_types": ["attention", "attention"]}},
    "falcon": {"new decoder": {"new_decoder_architecture": True, "num_kv_heads": 2}},
    "gpt_neox": {"sequential": {"use_parallel_residual": False}},
    "stablelm": {"normed": {"qk_layernorm": True, "use_parallel_residual": True}},
    "deepseek_v2": {"no query rank": {"q_lora_rank": None}},
    "llama": {"biased": {"attention_bias": True, "mlp_bias": True}},
    "phi": {"normed": {"qk_layernorm": True}},
    "persimmon": {"plain": {"qk_layernorm": False}},
    "opt": {"after": {"do_layer_norm_before": False}},
    "mistral": {"full": {"sliding_window": None}},
    "gemma3_text": {"bidirectional": {"use_bidirectional_attention": True}},
}
