"""Frozen Hugging Face models by name: a Hub id, a folder, or ``package:NAME/FOLDER`` inside an installed package.

A name may also be that of a PEFT adapter (see `adapters`). Multimodal models load whole, vision tower included, and are read
for text. Code that comes with a model is not run unless ``trust_remote_code`` says so; safetensors files go before pickles,
and pickles through torch's weights-only loader. A model that would start with weights its files do not hold is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config, tokenizer_class_from_name
from transformers.utils import logging as transformers_logging

from lit_cartridges.models.adapters import activate
from lit_cartridges.models.base_weights import DTYPES, note_base
from lit_cartridges.models.errors import NEEDS_ITS_CODE, ModelError, Refused, explained
from lit_cartridges.models.loaded_weights import require_whole
from lit_cartridges.models.places import Place, locate, resolve
from lit_cartridges.models.readable import require_readable
from lit_cartridges.models.weight_files import require_readable_files, safetensors_names
from lit_cartridges.models.weights_digest import weights_digest

__all__ = ["ModelError", "load_config", "load_model", "load_tokenizer", "locate", "resolve"]


def hub_options(settings: dict[str, Any]) -> dict[str, Any]:
    """Those options of `load_model` that `load_config` and `load_tokenizer` take too."""
    return {key: settings[key] for key in ("revision", "token", "trust_remote_code") if key in settings}


def load_config(
    name: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    setting: str = "model",
) -> PretrainedConfig:
    """The model's config, without its weights.

    Args:
        revision: branch, tag or commit on the Hub.
        token: for the Hub's private and gated models, where HF_TOKEN does not hold it.
        trust_remote_code: run code that comes with the model.
        setting: how the user calls the setting that holds the name; for errors.

    Raises:
        ModelError: it cannot be read, or needs code of its own.
    """
    place = locate(name, revision=revision, token=token, setting=setting)
    with explained(name, setting=setting, revision=revision):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            place.source, revision=place.revision, token=token, trust_remote_code=trust_remote_code
        )
        _refuse_kernels(config)
    return config


def load_tokenizer(
    name: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    setting: str = "model",
) -> Any:
    """The model's tokenizer; an adapter's own, or its base's where it has none (arguments and errors as `load_config`)."""
    place = locate(name, revision=revision, token=token, setting=setting)
    with explained(name, setting=setting, revision=revision):
        source, at = place.source, place.revision
        if place.adapter is not None and get_tokenizer_config(
            place.adapter.place, revision=place.adapter.revision, token=token
        ):
            source, at = place.adapter.place, place.adapter.revision
        if not trust_remote_code:
            _refuse_tokenizer_code(get_tokenizer_config(source, revision=at, token=token))
        return AutoTokenizer.from_pretrained(
            source, revision=at, token=token, trust_remote_code=trust_remote_code
        )


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: torch.device | str = "cpu",
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    device_map: str | dict[str, Any] | None = None,
    quantization_config: dict[str, Any] | None = None,
    setting: str = "model",
) -> PreTrainedModel:
    """The model, frozen and in eval mode (arguments and errors as `load_config`).

    Args:
        dtype: "auto" (that of its files), "float32", "bfloat16" or "float16".
        device: where it goes, unless ``device_map`` says otherwise; "auto" is CUDA where torch can use it.
        device_map: "auto", a device, or a device per module: accelerate spreads the model by it.
        quantization_config: as transformers takes it: ``{"load_in_4bit": true}``.
    """
    if dtype not in ("auto", *DTYPES):
        raise ModelError(f"dtype={dtype!r} must be auto, {', '.join(DTYPES)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    transformers_logging.disable_progress_bar()  # of reading files: it would break up ours
    place = locate(name, revision=revision, token=token, setting=setting)
    options: dict[str, Any] = {
        "revision": place.revision,
        "token": token,
        "trust_remote_code": trust_remote_code,
    }
    config = load_config(
        name, revision=revision, token=token, trust_remote_code=trust_remote_code, setting=setting
    )
    with explained(name, setting=setting, revision=revision), _without_report():
        model_classes(config)
        require_readable(config)
        if Path(place.source).is_dir():
            require_readable_files(Path(place.source), names=safetensors_names(config))
        options["dtype"] = dtype if dtype == "auto" else getattr(torch, dtype)
        # Quantised weights cannot be moved once they are loaded.
        quantised = (
            quantization_config is not None or getattr(config, "quantization_config", None) is not None
        )
        options["device_map"] = {"": str(device)} if device_map is None and quantised else device_map
        if quantization_config is not None:
            options["quantization_config"] = quantization_config
        model = _loaded(config, place.source, options)
        if options["device_map"] is None:
            model.to(device)
        if place.adapter is not None:
            activate(model, place.adapter, token=token)
    model.config._name_or_path = name
    note_base(
        model,
        base_facts(place, revision=revision, dtype=model.dtype, config=config) | _asked(quantization_config),
    )
    frozen: PreTrainedModel = model.eval().requires_grad_(False)
    return frozen


def stays_in_place(model: Any) -> bool:
    """Whether ``.to(device)`` would break the model: it is spread over devices, or its weights are quantised."""
    places = {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()}
    return len(places) > 1 or bool(getattr(model, "is_quantized", False))


def base_facts(
    place: Place, *, revision: str | None, dtype: torch.dtype, config: PretrainedConfig
) -> dict[str, Any]:
    """What `note_base` keeps of a loaded model, but for what was asked for beside its files."""
    own = getattr(config, "quantization_config", None)
    method = own.get("quant_method") if isinstance(own, dict) else getattr(own, "quant_method", None)
    adapter = None if place.adapter is None else place.adapter.folder
    return {
        "digest": ""
        if place.folder is None
        else weights_digest(place.folder, adapter, names=safetensors_names(config)),
        "revision": revision,
        # An adapter's commit is another repository's than its base's.
        "commit": place.commit if place.adapter is None else "",
        "dtype": str(dtype).removeprefix("torch."),
        "quantization": str(getattr(method, "value", method) or ""),
    }


def model_classes(config: PretrainedConfig) -> list[Any]:
    """The auto classes that may load a config's model for text, the likelier one first.

    Raises:
        Refused: it is no causal language model.
    """
    classes: list[Any] = []
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in (
        getattr(config, "auto_map", None) or {}
    ):
        classes.append(AutoModelForCausalLM)
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        classes.append(AutoModelForImageTextToText)
    if not classes or getattr(config, "is_encoder_decoder", False):
        raise Refused(
            f"its model_type {config.model_type!r} is no causal language model; give one that continues text"
        )
    return classes


def _loaded(config: PretrainedConfig, source: str, options: dict[str, Any]) -> Any:
    """The model with every weight from its files, by the first class that has a place for what they hold."""
    classes = model_classes(config)
    for kind in classes:
        model, report = kind.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        try:
            require_whole(model, report)
        except Refused:
            if kind is classes[-1]:
                raise
        else:
            return model
    raise AssertionError("there is a class, or model_classes has raised")


def _asked(quantization_config: Any) -> dict[str, Any]:
    if quantization_config is None:
        return {}
    plain = quantization_config if isinstance(quantization_config, dict) else quantization_config.to_dict()
    return {"quantization_config": plain, "quantization": str(plain.get("quant_method") or "bitsandbytes")}


def _refuse_kernels(config: PretrainedConfig) -> None:
    """A config may name a repository as its attention, whose code transformers would fetch and run."""
    for part in (config, config.get_text_config()):
        for name in ("_attn_implementation", "_experts_implementation"):
            if "/" in str(getattr(part, name, None) or ""):
                raise Refused(
                    f"its config.json names code to run as {name}={getattr(part, name)!r}; remove that from it"
                )


def _refuse_tokenizer_code(settings: dict[str, Any]) -> None:
    """Without this, transformers would take another tokenizer in place of one that comes as code, without a word."""
    code, kind = settings.get("auto_map"), str(settings.get("tokenizer_class") or "")
    if isinstance(code, dict):
        code = code.get("AutoTokenizer")
    if code and not any(tokenizer_class_from_name(kind.removesuffix("Fast") + end) for end in ("", "Fast")):
        raise Refused(NEEDS_ITS_CODE)


@contextmanager
def _without_report() -> Iterator[None]:
    """No table of weights by transformers: `require_whole` says in one line what matters."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
