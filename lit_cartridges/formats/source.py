"""Which model a cartridge is of, where its file does not say."""

from __future__ import annotations

from dataclasses import replace

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.models import load_config
from lit_cartridges.provenance import Fingerprint


def with_base_model(cartridge: Cartridge, name: str) -> Cartridge:
    """The same cartridge, said to be of the model ``name``; reads that model's config and none of its weights.

    Raises:
        ValueError: its keys and values, or the fingerprint that it brings, are not that model's; the message names
            each difference.
    """
    config = load_config(name, setting="base_model")
    cartridge.require_made_for(config, name)
    made_for = Fingerprint.of_config(config)
    cartridge.provenance = replace(cartridge.provenance, base_model=name, fingerprint=made_for)
    return cartridge
