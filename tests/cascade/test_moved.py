"""What a decoded token costs a full cascade: launches, waits for the device, bytes; docs/gpu.md has the figures."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.cascade import CascadingCache
from tests.cascade.models import random_model, read, tokens
from tests.cascade.moved import counted
from tests.cascade.test_ring import by_columns

TOKENS, LAYERS, KV, DIM = 16, 4, 2, 64
NUMBER_BYTES = 4


@pytest.fixture(scope="module")
def model():
    return random_model(
        "llama",
        num_hidden_layers=LAYERS,
        hidden_size=256,
        num_key_value_heads=KV,
        head_dim=DIM,
        max_position_embeddings=4096,
    )


def costs(monkeypatch, model, total_tokens: int, *, slots: bool = True) -> dict[str, float]:
    """Per token and layer, in 16 tokens that go all ways through the sub-caches."""
    with monkeypatch.context() as patch:
        if not slots:
            by_columns(patch)
        cache = CascadingCache(config=model.config, total_tokens=total_tokens, cascades=4, stride_tokens=256)
        read(model, cache, tokens(1, total_tokens + 200))
        read(model, cache, tokens(1, TOKENS), stride=1)
        with counted(patch) as mode:
            read(model, cache, tokens(1, TOKENS), stride=1)
    each = TOKENS * LAYERS
    found = {
        "launches": mode.launched / each,
        "waits": sum(mode.waits.values()) / each,
        "bytes": mode.bytes / each,
    }
    print(f"\n{total_tokens} held by {'slots' if slots else 'columns'}: {found}")
    return found


def test_a_token_reads_what_is_held_once_and_waits_for_nothing(monkeypatch, model):
    """Keys and values are read once; what else grows with them is a few numbers per slot and query head."""
    slots, columns = (costs(monkeypatch, model, 1028, slots=x) for x in (True, False))
    held = 1028 * KV * 2 * DIM * NUMBER_BYTES
    assert slots["waits"] == 0 < columns["waits"]
    assert slots["launches"] <= 62 < columns["launches"]
    assert held < slots["bytes"] < 1.6 * held < 13 * held < columns["bytes"]


def slots_of(layer) -> list[torch.Tensor]:
    """All that stands in slots, but for the scores, [R, heads, slots, numbers]."""
    ring = layer.ring
    return [x.clone() for x in (ring.held, ring.turned, ring.front, ring.tokens[..., None])]


@pytest.mark.parametrize("total_tokens", [260, 1028])
def test_what_is_inserted_does_not_grow_with_the_cascade(model, total_tokens):
    """A token changes a slot per sub-cache, and the one where new tokens wait; no tensor is made anew."""
    cache = CascadingCache(config=model.config, total_tokens=total_tokens, cascades=4, stride_tokens=256)
    read(model, cache, tokens(1, total_tokens + 200))
    read(model, cache, tokens(1, 2), stride=1)
    rings, numbers = [layer.ring for layer in cache.layers], 0
    for token in tokens(1, 8, seed=1)[0]:
        before = [slots_of(layer) for layer in cache.layers]
        read(model, cache, token[None, None])
        for layer, held in zip(cache.layers, before, strict=True):
            changed = [(x != y).any(-1).sum(2) for x, y in zip(slots_of(layer), held, strict=True)]
            assert max(int(x.max()) for x in changed) <= 4 + 1
            numbers += sum(int(x.sum()) for x in changed)
    assert numbers > 0 and [layer.ring for layer in cache.layers] == rings
