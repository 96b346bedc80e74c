"""Which model a cartridge is of, where its file does not say."""

from __future__ import annotations

from dataclasses import replace

from lit_cartridges.cartridge import Cartridge, Fingerprint
from lit_cartridges.models import load_config


def with_base_model(cartridge: Cartridge, name: str) -> Cartridge:
    """The same cartridge, said to be of the model ``name``; reads that model's config and none of its weights.

    Raises:
        ValueError: its keys and values, or the fingerprint that it brings, are not that model's; the message names
            each difference.
    """
    theirs = Fingerprint.of_config(load_config(name, setting="--base-model"))
    shapes = sorted({(x.shape[0], x.shape[2]) for side in cartridge.tensors() for x in side})
    mine = [
        cartridge.provenance.fingerprint
        or replace(theirs, num_layers=cartridge.num_layers, num_kv_heads=kv_heads, head_dim=head_dim)
        for kv_heads, head_dim in shapes
    ]
    if differences := [line for one in mine for line in one.differences(theirs)]:
        raise ValueError(
            f"--base-model={name} is not the cartridge's model: cartridge against model, "
            + "; ".join(dict.fromkeys(differences))
        )
    cartridge.provenance = replace(cartridge.provenance, base_model=name, fingerprint=theirs)
    return cartridge
