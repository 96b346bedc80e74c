"""Folders of tiny models, whole and spoiled, multimodal, or adapters, for the tests of loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from tests.tiny_models import VOCAB
from tests.tiny_run import tokenizer

TENSORS = "model.safetensors"
_TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_QWEN_VISION = {"hidden_size": 16, "intermediate_size": 16, "depth": 1, "num_heads": 2, "out_hidden_size": 32}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
_QWEN_TOKENS = {
    "image_token_id": 90,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}
MULTIMODAL: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {**_TEXT, "head_dim": 8, "query_pre_attn_scalar": 8},
        "vision_config": {**_VISION, "num_hidden_layers": 1},
        "mm_tokens_per_image": 4,
        "image_token_index": 90,
    },
    "llava": {
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {"model_type": "clip_vision_model", **_VISION, "num_hidden_layers": 1},
        "image_token_index": 90,
    },
    "mistral3": {
        "text_config": {"model_type": "mistral", **_TEXT, "head_dim": 8},
        "vision_config": {"model_type": "pixtral", **_VISION, "num_hidden_layers": 1},
        "image_token_index": 90,
    },
    "qwen2_5_vl": {
        "text_config": {**_TEXT, "rope_parameters": _MROPE},
        "vision_config": _QWEN_VISION,
        **_QWEN_TOKENS,
    },
    "qwen3_vl": {
        "text_config": {**_TEXT, "head_dim": 8, "rope_parameters": _MROPE},
        "vision_config": {**_QWEN_VISION, "deepstack_visual_indexes": [0]},
        **_QWEN_TOKENS,
    },
}


def save_multimodal(folder: Path, kind: str) -> Any:
    """A tiny multimodal model and the tokenizer in ``folder``; returns it as transformers made it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **MULTIMODAL[kind])
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model.eval()


def save_wide(folder: Path) -> str:
    """A tiny Llama whose layers are wide enough for the blocks of 4-bit quantisation, with its tokenizer."""
    config = AutoConfig.for_model("llama", **(_TEXT | {"hidden_size": 64, "intermediate_size": 64}))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def save_adapter(folder: Path, base: str, config: Any) -> Any:
    """A PEFT adapter with weights that matter, of the model in ``base``; returns PEFT's own model."""
    from peft import get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder)
    return model


def change_json(file: Path, **changes: Any) -> None:
    """Set fields of a JSON object."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_tensors(folder: Path, change: Any, name: str = TENSORS) -> None:
    """Pass the file's tensors by name through ``change``."""
    save_file(change(load_file(folder / name)), folder / name, metadata={"format": "pt"})
