"""Which model a cartridge is of, where its file does not say."""

from __future__ import annotations

from dataclasses import replace

from lit_cartridges.cartridge import Cartridge, Fingerprint
from lit_cartridges.models import load_config
from lit_cartridges.models.cache_shapes import shape_differences


def with_base_model(cartridge: Cartridge, name: str) -> Cartridge:
    """The same cartridge, said to be of the model ``name``; reads that model's config and none of its weights.

    Raises:
        ValueError: its keys and values, or the fingerprint that it brings, are not that model's; the message names
            each difference.
    """
    config = load_config(name, setting="--base-model")
    theirs, said = Fingerprint.of_config(config), cartridge.provenance.fingerprint
    differences = said.differences(theirs) if said else []
    if differences := [*differences, *shape_differences(*cartridge.tensors(), config)]:
        raise ValueError(
            f"--base-model={name} is not the cartridge's model: cartridge against model, "
            + "; ".join(dict.fromkeys(differences))
        )
    cartridge.provenance = replace(cartridge.provenance, base_model=name, fingerprint=theirs)
    return cartridge
