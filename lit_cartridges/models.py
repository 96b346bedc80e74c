"""Frozen Hugging Face models by name: a Hub id, a folder, or ``package:NAME/FOLDER`` inside an installed package."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lit_cartridges.found_models import found

_PACKAGE = "package:"


def resolve(name: str) -> str:
    """The Hub id or folder behind ``name``.

    Raises:
        ValueError: a ``package:`` name whose package or folder does not exist.
    """
    if not name.startswith(_PACKAGE):
        return name
    package, _, folder = name.removeprefix(_PACKAGE).partition("/")
    try:
        path = files(package) / folder
    except ModuleNotFoundError as error:
        raise ValueError(
            f"model={name!r}: there is no package {package!r}; install it or correct the name"
        ) from error
    if not path.is_dir():
        raise ValueError(f"model={name!r}: package {package!r} has no folder {folder!r}")
    return str(path)


def load_config(name: str, **options: Any) -> PretrainedConfig:
    """The model's config, without its weights."""
    place = resolve(name)
    with found(place, name=name):
        return AutoConfig.from_pretrained(place, **options)


def load_tokenizer(name: str, **options: Any) -> Any:
    """The model's tokenizer."""
    place = resolve(name)
    with found(place, name=name):
        return AutoTokenizer.from_pretrained(place, **options)


def load_model(
    name: str, *, dtype: str = "auto", device: torch.device | str = "cpu", **options: Any
) -> PreTrainedModel:
    """The model, frozen and in eval mode. ``dtype`` is "auto" (that of its files), "float32", "bfloat16" or "float16"."""
    transformers_logging.disable_progress_bar()  # of reading files: it would break up ours
    load_config(name)  # which says in a sentence that there is no such model
    wanted = dtype if dtype == "auto" else getattr(torch, dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(resolve(name), dtype=wanted, **options)
    model.config._name_or_path = name
    return model.to(device).eval().requires_grad_(False)
