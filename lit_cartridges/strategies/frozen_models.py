"""What `LitCartridge` and its data ask of a strategy that may shard frozen models; other strategies need not answer."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel

from lit_cartridges.models import load_model


def load_frozen_model(strategy: Any, name: str, *, dtype: str, device: torch.device) -> PreTrainedModel:
    """The model as the strategy wants it; whole and on ``device`` unless it says otherwise."""
    if hasattr(strategy, "load_frozen_model"):
        model: PreTrainedModel = strategy.load_frozen_model(name, dtype=dtype)
        return model
    return load_model(name, dtype=dtype, device=device)


def in_step(strategy: Any) -> AbstractContextManager[None]:
    """A section in which processes may run frozen models unequally often, which all enter together."""
    section: Any = getattr(strategy, "in_step", nullcontext)
    return section()
