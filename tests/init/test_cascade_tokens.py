"""The corpus streamed through a cascade: what is kept, at which positions, and in which sizes."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.cascade import CascadingCache, cascade_prefill
from lit_cartridges.cascade.rotation import Rotation
from lit_cartridges.init import CascadeTokens
from tests.init.context import CORPUS, OPENING, all_tensors, close, naive_prefill, new_context
from tests.tiny_models import tiny_model

LONG = (CORPUS * 20)[:1100]  # the models have 512 positions


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt_neox", "gemma3_text"])
def test_it_is_a_cascades_content_rotated_to_the_first_positions(name):
    model = tiny_model(name)
    mine = CascadeTokens(cascades=2, sink_tokens=4, stride_tokens=16).tensors(
        new_context(model, num_tokens=20, corpus=LONG)
    )
    cache = CascadingCache(config=model.config, sink_tokens=4, cascades=2, window_tokens=8, stride_tokens=16)
    cascade_prefill(model, cache, torch.tensor([OPENING + LONG]))
    rotation, places = Rotation.of(model), torch.arange(20)[None]
    keys = [rotation.rotate(i, layer.keys, places, 20)[0] for i, layer in enumerate(cache.layers)]
    close(all_tensors(mine), keys + [layer.values[0] for layer in cache.layers])
    assert max(int(layer.tokens.max()) for layer in cache.layers) == len(OPENING + LONG) - 1


def test_a_cartridge_that_holds_the_whole_corpus_is_its_prefill(llama):
    mine = CascadeTokens(stride_tokens=8).tensors(new_context(llama, num_tokens=62))
    close(all_tensors(mine), naive_prefill(llama, OPENING + CORPUS))


def test_one_sub_cache_keeps_the_opening_and_the_corpuss_end(llama):
    """The first layer's values depend on their own token alone."""
    mine = CascadeTokens(cascades=1, sink_tokens=0).tensors(new_context(llama, num_tokens=12))
    kept = OPENING + CORPUS[-10:]
    first_layer = naive_prefill(llama, kept)[2]
    torch.testing.assert_close(mine.values[0], first_layer, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_tokens", [3, 4, 5, 6, 7, 13])
def test_any_size_is_filled(llama, num_tokens):
    """Sinks and sub-caches need not divide it."""
    mine = CascadeTokens(cascades=4, sink_tokens=4).tensors(new_context(llama, num_tokens=num_tokens))
    assert mine.num_tokens == num_tokens and mine.biases is None


def test_no_room_behind_the_opening_is_refused(llama):
    with pytest.raises(ValueError, match=r"num_tokens=2 .*init=CascadeTokens .*choose at least 3"):
        CascadeTokens().tensors(new_context(llama, num_tokens=2))


@pytest.mark.parametrize("option", [{"cascades": 0}, {"sink_tokens": -1}, {"stride_tokens": 0}])
def test_sizes_that_cannot_be_are_refused(option):
    name, value = next(iter(option.items()))
    with pytest.raises(ValueError, match=f"{name}={value} must be at least"):
        CascadeTokens(**option)
