"""Keys moved to other positions are the keys that the model caches there.

A token that is read alone attends to itself only, so its hidden states are the same at every position, in every layer:
rows of one token each show every layer's keys at any position, and only the rotation differs.
"""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.rotary import Rotary
from tests.tiny_models import _COMMON, tiny_model

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
FROM = torch.tensor([0, 1, 2, 9, 40, 199])
TO = torch.tensor([3, 0, 30, 10, 200, 1])
SCALED = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "short_factor": [1.0, 1.2, 1.5, 2.0],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 128,
    },
}
PARTIAL = {
    "phi": {"partial_rotary_factor": 0.5},
    "stablelm": {"partial_rotary_factor": 0.25},
    "glm": {"head_dim": 8},
}


@cache
def built(name, **changes):
    """A tiny random model of another configuration; ``changes`` holds pairs of dictionary items, to be hashable."""
    config = AutoConfig.for_model(name, **(_COMMON | {key: _plain(value) for key, value in changes.items()}))
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)


def _plain(value):
    if not isinstance(value, tuple):
        return value
    return {key: list(item) if isinstance(item, tuple) else item for key, item in value}


def _items(mapping):
    return tuple((key, tuple(item) if isinstance(item, list) else item) for key, item in mapping.items())


def scaled(name, rope="llama"):
    return built(rope, rope_parameters=_items({"rope_theta": 1000.0, **SCALED[name]}))


def keys_at(model, positions):
    """Keys of every layer [kv_heads, tokens, head_dim] of some tokens, each read alone at its position."""
    held = DynamicCache()
    tokens = torch.arange(20, 20 + len(positions))[:, None]
    with torch.no_grad():
        model(tokens, position_ids=positions[:, None], **cache_argument(held))
    return [layer.keys[:, :, 0].transpose(0, 1) for layer in held.layers]


def check(model, start=FROM, end=TO):
    rotary = Rotary(model)
    before, after = keys_at(model, start), keys_at(model, end)
    for layer, (key, expected) in enumerate(zip(before, after, strict=True)):
        moved = rotary.rotate(key, layer=layer, from_positions=start, to_positions=end)
        torch.testing.assert_close(moved, expected, **TOLERANCE)
        assert (key - expected).abs().max() > 0.01
    assert len(before) >= 2


def test_every_architecture(model):
    check(model)


@pytest.mark.parametrize("name", list(SCALED))
def test_scaled_frequencies(name):
    check(scaled(name))


@pytest.mark.parametrize("name", list(PARTIAL))
def test_partial_rotation_and_interleaved_pairs(name):
    check(built(name, **PARTIAL[name]))


def test_yarn_scales_keys_so_the_test_above_saw_it():
    assert abs(scaled("yarn").model.rotary_emb.attention_scaling - 1) > 0.05


def test_dynamic_frequencies_of_a_longer_text_are_those_of_its_largest_position():
    """Beyond max_position_embeddings = 512 the frequencies themselves change with the length."""
    model, long = scaled("dynamic"), torch.tensor([0, 1, 2, 9, 40, 700])
    plain = keys_at(model, FROM)
    assert (keys_at(model, long)[0][:, 4] - plain[0][:, 4]).abs().max() > 1e-3, "not the same frequencies"
    check(model, FROM, long)
    check(model, long, FROM)


def test_layers_of_gemma_3_rotate_each_by_its_type():
    config = copy.deepcopy(tiny_model("gemma3_text").config)
    thetas = {name: rope["rope_theta"] for name, rope in config.rope_parameters.items()}
    assert thetas["full_attention"] != thetas["sliding_attention"]
    model = tiny_model("gemma3_text")
    rotary, before, after = Rotary(model), keys_at(model, FROM), keys_at(model, TO)
    wrong = rotary.rotate(before[2], layer=0, from_positions=FROM, to_positions=TO)
    assert (wrong - after[2]).abs().max() > 0.01


def test_a_prefill_at_other_positions_has_the_moved_keys_in_its_first_layer(model):
    ids, start, end = torch.arange(20, 40)[None], torch.arange(20), torch.arange(20) * 2 + 7
    held = []
    for positions in (start, end):
        cache = DynamicCache()
        with torch.no_grad():
            model(ids, position_ids=positions[None], **cache_argument(cache))
        held.append(cache.layers[0].keys[0])
    moved = Rotary(model).rotate(held[0], layer=0, from_positions=start, to_positions=end)
    torch.testing.assert_close(moved, held[1], **TOLERANCE)


def test_heads_may_move_to_positions_of_their_own(llama):
    rotary, key = Rotary(llama), keys_at(llama, FROM)[1]
    ends = torch.stack([TO, TO.flip(0)])
    moved = rotary.rotate(key, layer=1, from_positions=FROM, to_positions=ends)
    for head, end in enumerate(ends):
        alone = rotary.rotate(key[head : head + 1], layer=1, from_positions=FROM, to_positions=end)
        assert torch.equal(moved[head], alone[0])


def test_scores_depend_on_distances_alone_so_negative_positions_work(llama):
    """A query at 9 and keys at FROM score as they do when all of them stand 50 positions earlier."""
    rotary, (key, *_) = Rotary(llama), keys_at(llama, FROM)
    query, at = key[:, :1], torch.tensor([9])
    query = rotary.rotate(query, layer=0, from_positions=torch.tensor([0]), to_positions=at)
    there = rotary.rotate(query, layer=0, from_positions=at, to_positions=at - 50)
    moved = rotary.rotate(key, layer=0, from_positions=FROM, to_positions=FROM - 50)
    torch.testing.assert_close(there @ moved.transpose(1, 2), query @ key.transpose(1, 2), **TOLERANCE)


def test_16_bit_keys_stay_so(llama):
    key = keys_at(llama, FROM)[0]
    moved = Rotary(llama).rotate(key.bfloat16(), layer=0, from_positions=FROM, to_positions=TO)
    assert moved.dtype == torch.bfloat16
    exact = Rotary(llama).rotate(key, layer=0, from_positions=FROM, to_positions=TO)
    torch.testing.assert_close(moved.float(), exact, atol=0.02, rtol=0.02)


def test_models_without_rotation_are_refused_by_name():
    model = built("gpt2", n_embd=16, n_head=2, n_layer=2)
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no rotary position embedding"):
        Rotary(model)


def test_layers_without_positions_are_refused_by_number():
    model = built("smollm3", no_rope_layer_interval=2)
    with pytest.raises(ValueError, match="layer 1 of SmolLM3ForCausalLM does not rotate its keys"):
        Rotary(model)
