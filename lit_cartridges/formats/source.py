"""A cartridge to convert: where it lies, and which model it is of where its file does not say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cartridge_files.folder import here_or_downloaded
from lit_cartridges.models import load_config
from lit_cartridges.provenance import Fingerprint

# The files of every format; a repository's other files are not downloaded.
_FILES = ["cartridge.safetensors", "adapter_model.*", "adapter_config.json", "config.yaml", "*.pt"]


def local_copy(name: str) -> Path:
    """The path ``name``, or the Hub repository of that name, downloaded (errors as `here_or_downloaded`)."""
    return here_or_downloaded(name, _FILES)


def with_base_model(cartridge: Cartridge, name: str) -> Cartridge:
    """The same cartridge, said to be of the model ``name``; reads that model's config and none of its weights.

    Raises:
        ValueError: its keys and values, or the fingerprint that it brings, are not that model's; the message names
            each difference.
    """
    config = load_config(name, setting="--base-model")
    cartridge.require_made_for(config, name)
    made_for = Fingerprint.of_config(config)
    cartridge.provenance = replace(cartridge.provenance, base_model=name, fingerprint=made_for)
    return cartridge
