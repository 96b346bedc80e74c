"""A model is tried out before it reads: what is not exact is refused, with the layer and the difference."""

from __future__ import annotations

import time

import pytest
import torch

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.attention.self_check import require_exact_reading
from lit_cartridges.losses import LanguageHead
from lit_cartridges.models.readable import UnreadableModelError, require_readable
from tests.tiny_models import tiny_config_model


def test_every_architecture_of_the_tests_passes(model):
    require_exact_reading(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_fault(dtype):
    require_exact_reading(tiny_config_model("llama", hidden_size=128).to(dtype))


def test_a_layer_that_reads_wrongly_is_named_with_the_difference():
    """Layer 1 moves its keys after they were cached, so that what is cached is not what is read."""
    model = tiny_config_model("llama", num_hidden_layers=3)
    layer = model.model.layers[1].self_attn
    plain = layer.k_proj.forward
    layer.k_proj.forward = lambda x: plain(x) + (x.shape[1] > 6)
    with pytest.raises(
        UnreadableModelError, match=r"LlamaForCausalLM .* differ by 0\.\d+ of their norm .* from layer 1 on"
    ):
        prefill(model, [3, 4, 5])


def test_a_layer_that_attends_by_itself_is_refused():
    model = tiny_config_model("llama")
    model.model.layers[1].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(UnreadableModelError, match="layer 1 0 times"):
        prefill(model, [3, 4, 5])


def test_a_model_is_tried_once(llama):
    require_exact_reading(llama)
    started = time.perf_counter()
    for _ in range(100):
        require_exact_reading(llama)
    assert time.perf_counter() - started < 0.05


def test_training_mode_comes_back():
    model = tiny_config_model("llama", attention_dropout=0.5).train()
    require_exact_reading(model)
    assert model.training


HEADS = {
    "gemma2": {"head_dim": 16, "final_logit_softcapping": 3.0},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 4.0},
    "modernbert-decoder": {"local_attention": 16},
    "gpt_neox": {"num_key_value_heads": 4},
}


@pytest.mark.parametrize("kind", HEADS)
def test_the_head_is_the_models_own(kind):
    """Soft-caps, scalings, and a head with a dense layer and a norm of its own."""
    model = tiny_config_model(kind, **HEADS[kind])
    ids = torch.tensor([[5, 9, 11, 23]])
    hidden = model.base_model(ids).last_hidden_state[0].requires_grad_()
    logits = LanguageHead(model)(hidden)
    torch.testing.assert_close(logits, model(ids).logits[0])
    assert torch.autograd.grad(logits.sum(), hidden)[0].abs().max() > 0


REFUSED = {
    "deepseek_v3": ({}, "latent attention"),
    "gemma3n_text": ({}, "shares keys and values between layers"),
    "mamba": ({}, "attention interface|layers of type"),
    "t5": ({}, "an encoder and a decoder"),
    "bert": ({}, "in both directions"),
    "llama4_text": ({}, "chunked_attention"),
    "diffllama": ({}, "twice in a layer"),
    "bloom": ({}, "does not use transformers' attention interface"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_config_tells_is_refused_without_weights(kind):
    from transformers import AutoConfig

    settings, why = REFUSED[kind]
    with pytest.raises(UnreadableModelError, match=why):
        require_readable(AutoConfig.for_model(kind, **settings))
