"""A cartridge's tensors against a model's config, layer by layer, whatever the cartridge's file says."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Fingerprint, Provenance
from lit_cartridges.models.cache_shapes import shape_differences


def tensors(*shapes):
    return [torch.zeros(heads, 3, dim) for heads, dim in shapes]


@pytest.mark.parametrize(
    ("keys", "values", "told"),
    [
        ([(2, 8)], [(2, 8)], "num_layers: 1 against 2"),
        ([(2, 8)] * 3, [(2, 8)] * 3, "num_layers: 3 against 2"),
        ([(2, 8), (4, 8)], [(2, 8)] * 2, "num_kv_heads: 4 against 2 in layer 1"),
        ([(2, 8)] * 2, [(2, 8), (2, 16)], "head_dim: 16 against 8 in layer 1"),
        ([(1, 8)] * 2, [(1, 8)] * 2, "num_kv_heads: 1 against 2"),
        ([(2, 8)] * 2, [(2, 4)] * 2, "head_dim: 4 against 8"),
    ],
)
def test_the_tensors_count_and_not_what_is_said_of_them(keys, values, told, llama):
    honest = Provenance(base_model="tiny/llama", fingerprint=Fingerprint.of_config(llama.config))
    cartridge = Cartridge(tensors(*keys), tensors(*values), provenance=honest)
    with pytest.raises(ValueError, match=rf"\(of tiny/llama\) does not fit .*{told}$"):
        cartridge.require_fit(llama)


def test_what_a_model_caches_fits_it(model):
    assert shape_differences(*prefill(model, torch.arange(3, 9))[:2], model.config) == []


def test_configs_that_name_each_layer_are_read_layer_by_layer():
    config = AutoConfig.for_model("gemma4_text", num_hidden_layers=6)
    own = [(x.num_key_value_heads, x.head_dim) for x in (config.per_layer_config[i] for i in range(6))]
    assert len(set(own)) > 1
    assert shape_differences(tensors(*own), tensors(*own), config) == []
    assert shape_differences(tensors(*own[::-1]), tensors(*own), config)


def test_latents_and_shared_caches_are_not_taken_for_differences():
    latent = AutoConfig.for_model("deepseek_v3", num_hidden_layers=1)
    width = latent.qk_nope_head_dim + latent.qk_rope_head_dim
    keys, values = tensors((latent.num_attention_heads, width)), tensors((latent.num_attention_heads, 128))
    assert shape_differences(keys, values, latent) == []
    assert shape_differences(tensors((128, 100)), values, latent) != []
    shared = AutoConfig.for_model(
        "gemma3n_text", num_hidden_layers=4, num_kv_shared_layers=1, layer_types=["full_attention"] * 4
    )
    own = [(shared.num_key_value_heads, shared.head_dim)] * 3
    assert shape_differences(tensors(*own), tensors(*own), shared) == []
    assert shape_differences(tensors(*own[:2]), tensors(*own[:2]), shared) == ["num_layers: 2 against 4"]
