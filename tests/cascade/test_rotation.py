"""A model's own rotation at the cascade's positions: every kind gives dense attention, or is refused by name."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.cascade import CascadingCache, reads_cascades
from lit_cartridges.cascade.rotation import Rotation
from tests.cascade.models import dense, random_model, read, tokens

TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}
ROPE_SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


@pytest.mark.parametrize("scaling", sorted(ROPE_SCALINGS))
def test_rope_scalings(scaling):
    model = random_model("llama", rope_parameters={"rope_theta": 1e4, **ROPE_SCALINGS[scaling]})
    ids = tokens(1, 90)
    cache = CascadingCache(config=model.config, sink_tokens=2, window_tokens=22, stride_tokens=16)
    torch.testing.assert_close(read(model, cache, ids), dense(model, ids), **TOLERANCE)


def test_longrope():
    half = 4  # rotated pairs of dimensions
    scaling = {"rope_type": "longrope", "short_factor": [1.5] * half, "long_factor": [4.0] * half}
    rope = {"rope_theta": 1e4, "original_max_position_embeddings": 32, "factor": 8.0, **scaling}
    model = random_model("phi3", max_position_embeddings=256, rope_parameters=rope)
    for length in (32, 90):  # short factors, and long ones
        ids = tokens(1, length)
        cache = CascadingCache(config=model.config, sink_tokens=2, window_tokens=22, stride_tokens=90)
        torch.testing.assert_close(read(model, cache, ids), dense(model, ids), **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("phi", {"partial_rotary_factor": 0.5}),
        ("smollm3", {"no_rope_layers": [1, 0]}),  # its second layer has no positions at all
        ("glm", {"head_dim": 8, "partial_rotary_factor": 0.5}),  # rotates neighbours, not halves
        ("cohere2", {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 9}),
    ],
)
def test_other_ways_to_rotate(name, options):
    model, ids = random_model(name, **options), tokens(1, 40)
    cache = CascadingCache(config=model.config, sink_tokens=4, cascades=3, window_tokens=12, stride_tokens=7)
    torch.testing.assert_close(read(model, cache, ids), dense(model, ids), **TOLERANCE)


def test_positions_have_a_bound(llama, monkeypatch):
    largest, rotate = [], Rotation.rotate

    def noting(self, layer, x, positions, limit):
        largest.append(int(positions.max()) if positions.numel() else 0)
        return rotate(self, layer, x, positions, limit)

    cache = CascadingCache(config=llama.config, sink_tokens=2, cascades=3, window_tokens=4, stride_tokens=5)
    with reads_cascades(llama):
        pass
    monkeypatch.setattr(Rotation, "rotate", noting)
    read(llama, cache, tokens(1, 120))  # one call, of many strides
    assert max(largest) == 2 + 3 * 4 + 5 - 1


def test_positions_that_are_not_rotary_are_refused_by_name():
    gpt2 = random_model("gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=64)
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no rotary"), reads_cascades(gpt2):
        pass


def test_a_rotation_that_is_not_the_models_function_is_refused_by_name(monkeypatch):
    """As in models that normalise after rotating: what the functions give is then not what the layer does."""
    model = random_model("llama")
    monkeypatch.setattr(
        "transformers.models.llama.modeling_llama.apply_rotary_pos_emb",
        lambda q, k, cos, sin: (q + 1 - cos[:, None].mean(), k + 1 - cos[:, None].mean()),
    )
    right = Rotation(model)
    monkeypatch.undo()
    monkeypatch.setattr(Rotation, "__init__", lambda self, _: self.__dict__.update(right.__dict__))
    with pytest.raises(ValueError, match="layer 0 of LlamaForCausalLM does not rotate its keys"):
        Rotation.of(model)
