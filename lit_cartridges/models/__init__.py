"""Frozen models by name: where they lie, whether they can be read, what loads them and what is known of their weights."""

from lit_cartridges.models.errors import ModelError
from lit_cartridges.models.loading import hub_options, load_config, load_model, load_tokenizer, stays_in_place
from lit_cartridges.models.places import locate, resolve

__all__ = [
    "ModelError",
    "hub_options",
    "load_config",
    "load_model",
    "load_tokenizer",
    "locate",
    "resolve",
    "stays_in_place",
]
