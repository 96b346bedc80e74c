"""How many positions a model knows, and what to say beyond them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel


def max_positions(config: PretrainedConfig) -> int | None:
    """``max_position_embeddings`` of the text model, or None where its config names no limit."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def rotates_by_length(config: PretrainedConfig) -> bool:
    """Whether the frequencies of its rotary positions depend on the furthest position of a call (dynamic NTK, LongRoPE), so that
    rows of very different length do not leave each other alone."""
    text = config.get_text_config()
    given = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    every = [given, *(kind for kind in given.values() if isinstance(kind, Mapping))]
    return any({kind.get("rope_type"), kind.get("type")} & {"dynamic", "longrope"} for kind in every)


def warn_beyond_positions(model: PreTrainedModel, used_tokens: int, options: Mapping[str, Any]) -> None:
    """Warn, once per place that asks, when a prefix, a prompt and its reply need more positions than the model knows."""
    limit, new_tokens = max_positions(model.config), options.get("max_new_tokens") or 1
    if limit is not None and used_tokens + new_tokens > limit:
        warnings.warn(
            f"cartridge and prompt take {used_tokens} positions and the reply up to {new_tokens}, and the model has "
            f"max_position_embeddings={limit}: what it writes beyond them is not to be trusted; shorten the prompt, lower "
            "max_new_tokens or take a shorter cartridge",
            stacklevel=4,
        )
