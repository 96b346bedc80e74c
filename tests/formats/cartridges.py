"""Cartridges for the tests of files."""

from __future__ import annotations

import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Fingerprint, Provenance
from tests.tiny_models import VOCAB, tiny_model


def drawn(
    *, layers: int = 3, heads: int = 2, tokens: int = 16, width: int = 8, frozen: int = 2, **known
) -> Cartridge:
    """Random keys and values that bf16 holds exactly, so that every format gives them back to the last bit."""
    generator = torch.Generator().manual_seed(0)
    sides = [
        [torch.randn(heads, tokens, width, generator=generator).bfloat16() for _ in range(layers)]
        for _ in range(2)
    ]
    return Cartridge(*sides, num_frozen_tokens=frozen, provenance=Provenance(**known))


def prefilled(name: str, *, tokens: int = 12, frozen: int = 1) -> Cartridge:
    """A cartridge that the tiny model ``name`` reads as it would read ``tokens`` random tokens."""
    model = tiny_model(name)
    ids = torch.randint(3, VOCAB, (tokens,), generator=torch.Generator().manual_seed(1))
    known = Provenance(base_model=f"tiny/{name}", fingerprint=Fingerprint.of_config(model.config), steps=3)
    return Cartridge(*prefill(model, ids), num_frozen_tokens=frozen, provenance=known)


def with_biases(cartridge: Cartridge) -> Cartridge:
    """The same with a bias per key."""
    keys, values = cartridge.tensors()
    return Cartridge(
        keys,
        values,
        [torch.full(x.shape[:2], -0.5) for x in keys],
        num_frozen_tokens=cartridge.num_frozen_tokens,
        provenance=cartridge.provenance,
    )


def same_content(mine: Cartridge, theirs: Cartridge) -> bool:
    """Equal keys and values, to the last bit, and equal frozen tokens."""
    sides = (
        pair
        for ours, other in zip(mine.tensors(), theirs.tensors(), strict=True)
        for pair in zip(ours, other, strict=True)
    )
    return mine.num_frozen_tokens == theirs.num_frozen_tokens and all(torch.equal(*pair) for pair in sides)
