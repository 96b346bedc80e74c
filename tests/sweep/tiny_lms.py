"""Every language model of the installed transformers: its name, what kind it is, and a tiny random one."""

from __future__ import annotations

import dataclasses
from functools import cache

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from tests.sweep.tiny_configs import is_encoder, variants

CAUSAL = tuple(dict.fromkeys(cls.model_type for cls in MODEL_FOR_CAUSAL_LM_MAPPING))
WRAPPERS = tuple(
    name
    for name in dict.fromkeys(cls.model_type for cls in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    if name not in CAUSAL
)
KINDS = {
    "causal": "causal LM",
    "wrapper": "multimodal, read as text",
    "encoder": "encoder, unless its config says decoder",
    "encoder-decoder": "encoder-decoder, or the decoder of one",
}


@cache
def names() -> tuple[str, ...]:
    """Every model type, and every variant of it as ``type+variant``."""
    return tuple(
        name
        for kind in CAUSAL + WRAPPERS
        for name in (kind, *(f"{kind}+{variant}" for variant in variants(kind)))
    )


def kind_of(name: str) -> str:
    """One of `KINDS`."""
    model_type, _, variant = name.partition("+")
    cls = CONFIG_MAPPING[model_type]
    fields = {field.name: field.default for field in dataclasses.fields(cls)}
    if fields.get("is_encoder_decoder", False) or model_type in _DECODERS_OF_PAIRS:
        return "encoder-decoder"
    if model_type in WRAPPERS:
        return "wrapper"
    return "encoder" if is_encoder(model_type) and variant != "decoder" else "causal"


# Their configs do not say so.
_DECODERS_OF_PAIRS = (
    "vision-encoder-decoder",
    "florence2",
    "pix2struct",
    "pp_formulanet",
    "trocr",
    "musicgen",
    "musicgen_melody",
)


def class_of(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class that transformers makes of it: a causal LM if there is one, or what reads images and text."""
    mappings = (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    found = next((mapping[type(config)] for mapping in mappings if type(config) in mapping), None)
    return found[0] if isinstance(found, tuple) else found


def tiny_lm(config: PretrainedConfig) -> PreTrainedModel:
    """Frozen, fp32, in eval mode; weights drawn large enough that attention matters, norms and biases moved too."""
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    auto = AutoModelForCausalLM if causal else AutoModelForImageTextToText
    torch.manual_seed(0)
    model: PreTrainedModel = auto.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.12)
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)
