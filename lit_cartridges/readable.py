"""Which models can read a cartridge, said from their config alone; and the text model inside of wrappers.

transformers' models come wrapped: by torch.compile, PEFT, a data-parallel module, a head for text, vision beside text.
`unwrapped` finds the model of transformers, `text_model` the decoder in it, whose layers read.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel

_LAYERS_THAT_READ = {"full_attention", "sliding_attention"}
_KNOWN = {
    "diffllama": "asks for its attention twice in a layer, each time with half of the values",
    "hrm_text": "runs its layers several times in one call, and a cartridge holds keys and values for one time",
    "doge": "makes a mask of its own in each layer, from the keys, which a cartridge does not go through",
}
"""Model types of transformers whose config says nothing, and what `self_check` or the sweep of the tests finds."""
_OFFER = "choose a model whose every layer is one of full or sliding-window attention (Llama, Qwen, Mistral, Gemma, Phi, …)"


class UnreadableModelError(ValueError):
    """A model that cannot read a cartridge, or not exactly; the message names the model and what stands against it."""


def unwrapped(model: Any) -> PreTrainedModel:
    """The transformers model inside of torch.compile's, PEFT's and data-parallel wrappers; most models are it themselves.

    Raises:
        UnreadableModelError: there is none, or PEFT puts tokens of its own in front (prompt and prefix tuning).
    """
    if isinstance(model, PreTrainedModel):
        return model
    inside = (
        (m for m in model.modules() if isinstance(m, PreTrainedModel)) if isinstance(model, nn.Module) else ()
    )
    found = next(iter(inside), None)
    if found is None:
        raise UnreadableModelError(
            f"model is a {type(model).__name__}, with no model of transformers inside; give one loaded by "
            "AutoModelForCausalLM, bare or wrapped"
        )
    kind = getattr(getattr(model, "active_peft_config", None), "peft_type", None)
    if kind is not None and getattr(model.active_peft_config, "is_prompt_learning", False):
        raise UnreadableModelError(
            f"model is a PeftModel whose adapter ({getattr(kind, 'value', kind)}) puts positions of its own in front of "
            "the tokens, where a cartridge stands; turn it into a cartridge (lit-cartridges convert), or give the base model"
        )
    return found


def text_model(model: nn.Module) -> PreTrainedModel:
    """The decoder whose layers read, without its head and without what reads images; `model` itself if it is one."""
    found: Any = model.get_decoder() if isinstance(model, PreTrainedModel) else model
    return found


def require_readable(config: PretrainedConfig, model_class: type[PreTrainedModel] | None = None) -> None:
    """Raise `UnreadableModelError`, naming the model and why, where its config alone tells that it cannot read.

    What no config tells is found by `self_check` as soon as there are weights.

    Args:
        model_class: the class that will read; None for the one that AutoModelForCausalLM takes.
    """
    text = config.get_text_config()
    if model_class is None and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    name = model_class.__name__ if model_class is not None else f"a model of type {config.model_type}"
    if (why := _against(config, text, model_class)) is not None:
        raise UnreadableModelError(f"{name} {why}; {_OFFER}")


def _against(config: Any, text: Any, model_class: type[PreTrainedModel] | None) -> str | None:
    """What stands against it, or None."""
    if config.is_encoder_decoder or text.is_encoder_decoder:
        return "is an encoder and a decoder, and a cartridge is read by a decoder alone"
    if getattr(text, "is_decoder", True) is False:
        return "reads in both directions (is_decoder=False), and a cartridge is read causally"
    if (why := _KNOWN.get(text.model_type) or _KNOWN.get(config.model_type)) is not None:
        return why
    foreign = set(getattr(text, "layer_types", None) or ()) - _LAYERS_THAT_READ
    if foreign:
        return (
            f"has layers of type {', '.join(sorted(foreign))}, which keep no keys and values for every token"
        )
    if getattr(text, "kv_lora_rank", None):
        return (
            "has latent attention (kv_lora_rank), which caches a compressed latent for all heads, and a cartridge holds "
            "keys and values per head"
        )
    if getattr(text, "num_kv_shared_layers", None):
        return "shares keys and values between layers (num_kv_shared_layers), and a cartridge holds some for every layer"
    if model_class is not None and not model_class._can_set_attn_implementation():
        return "does not use transformers' attention interface, through which a cartridge is read"
    return None
