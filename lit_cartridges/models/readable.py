"""Which models can read a cartridge, said from their config alone; and the text model inside of wrappers.

transformers' models come wrapped: by torch.compile, PEFT, a data-parallel module, a head for text, vision beside text.
`unwrapped` finds the model of transformers, `text_model` the decoder in it, whose layers read.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from lit_cartridges.errors import CartridgesError

_LAYERS_THAT_READ = {"full_attention", "sliding_attention"}
_OFFER = "choose a model whose every layer is one of full or sliding-window attention (Llama, Qwen, Mistral, Gemma, Phi, …)"
_BOTH_WAYS = "reads in both directions, and a cartridge is read causally"
_ENCODERS = {
    "bert",
    "bert-generation",
    "big_bird",
    "electra",
    "ernie",
    "megatron-bert",
    "rembert",
    "roc_bert",
    "roformer",
}
_FROM_PADDING_ID = (
    "counts its positions from the id of the padding token on, and those behind a cartridge from its length"
)
_NO_TEXT_MODEL = "has no text model that can be called apart from what reads images"
_IMAGES_OWN_MASK = (
    "reads whole prompts in both directions, or by a mask of its own, and a cartridge is read causally"
)
_IN_CYCLES = "runs its layers several times in one call, and a cartridge holds keys and values for one time"
_KNOWN = {
    **dict.fromkeys(("camembert", "data2vec-text", "roberta", "roberta-prelayernorm"), _FROM_PADDING_ID),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl", "xmod"), _FROM_PADDING_ID),
    **dict.fromkeys(("mllama", "kosmos-2", "kosmos-2.5", "idefics"), _NO_TEXT_MODEL),
    **dict.fromkeys(("paligemma", "git"), _IMAGES_OWN_MASK),
    "blt": "reads bytes in patches, and a cartridge holds keys and values of tokens",
    "diffllama": "asks for its attention twice in a layer, each time with half of the values",
    "diffusion_gemma": "does not write one token after the other",
    "doge": "makes a mask of its own in each layer, from the keys, which a cartridge does not go through",
    **dict.fromkeys(("dory", "hrm_text"), _IN_CYCLES),
    "mimo_v2_flash": "has twice as many key heads in its sliding layers, and a cartridge is described by one number",
}
"""Model types of transformers that their config does not tell from others; tests try every type there is."""


class UnreadableModelError(CartridgesError, ValueError):
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
    # Some heads are called decoders, too.
    return found if isinstance(found, PreTrainedModel) else model.base_model  # type: ignore[return-value]


def require_readable(config: PretrainedConfig, model_class: type[PreTrainedModel] | None = None) -> None:
    """Raise `UnreadableModelError`, naming the model and why, where its config alone tells that it cannot read.

    What no config tells is found by `self_check` as soon as there are weights.

    Args:
        model_class: the class that will read; None for the one that transformers takes to write text by this config.
    """
    try:
        text = config.get_text_config()
    except ValueError as error:  # there are several, such as an encoder of text and a decoder of sounds
        raise UnreadableModelError(
            f"a model of type {config.model_type} has several text models, and a cartridge is read by one; {_OFFER}"
        ) from error
    for classes in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING):
        if model_class is None and type(config) in classes:
            model_class = cast(type[PreTrainedModel], classes[type(config)])
    name = model_class.__name__ if model_class is not None else f"a model of type {config.model_type}"
    if (why := _against(config, text, model_class)) is not None:
        raise UnreadableModelError(f"{name} {why}; {_OFFER}")


def _against(config: Any, text: Any, model_class: type[PreTrainedModel] | None) -> str | None:
    """What stands against it, or None."""
    if config.is_encoder_decoder or text.is_encoder_decoder:
        return "is an encoder and a decoder, and a cartridge is read by a decoder alone"
    if (text.model_type in _ENCODERS and not text.is_decoder) or getattr(
        text, "use_bidirectional_attention", None
    ):
        return _BOTH_WAYS
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
    try:
        getattr(text, "head_dim", None), getattr(text, "num_key_value_heads", None)
    except (AttributeError, RuntimeError):  # transformers' answer where they differ between layers
        return "has layers of different head sizes, and a cartridge is described by one"
    if model_class is None:
        return None
    if not model_class._can_set_attn_implementation():
        return "does not use transformers' attention interface, through which a cartridge is read"
    parameters = inspect.signature(model_class.forward).parameters
    if "position_ids" not in parameters:
        return "takes no position_ids, and behind a cartridge positions begin at its length"
    needed = [
        name for name, x in parameters.items() if x.default is x.empty and x.kind is x.POSITIONAL_OR_KEYWORD
    ]
    if more := [name for name in needed if name not in ("self", "input_ids")]:
        return f"takes no text without {', '.join(more)}"
    return None
