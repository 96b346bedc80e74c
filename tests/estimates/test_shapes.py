"""Sizes read off configs of other decoders than Llama."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, GPTNeoXConfig, Qwen3Config, Qwen3MoeConfig
from transformers.configuration_utils import PretrainedConfig

from lit_cartridges.estimates.chips import CHIPS, machine_of
from lit_cartridges.estimates.shapes import Shape, ShapeError

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "vocab_size": 500,
    "intermediate_size": 96,
}


@pytest.mark.parametrize("kind", [Qwen3Config, GemmaConfig])
def test_gated_decoders_have_the_weights_that_are_counted(kind):
    config = kind(**SIZES, num_key_value_heads=2, head_dim=16)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    counted = Shape.of_config(config).weights
    assert counted == pytest.approx(
        sum(p.numel() for p in model.parameters()), rel=0.01
    )  # but for norms of heads


def test_sizes_that_a_config_leaves_out():
    shape = Shape.of_config(GPTNeoXConfig(**SIZES))
    assert (shape.kv_heads, shape.head_dim, shape.tied) == (8, 8, False)


def test_of_experts_those_that_a_token_passes():
    config = Qwen3MoeConfig(
        **SIZES, num_key_value_heads=2, num_experts=16, num_experts_per_tok=4, moe_intermediate_size=32
    )
    assert Shape.of_config(config).mlp_width == 4 * 32


def test_a_config_that_does_not_tell_a_size_is_refused():
    with pytest.raises(ShapeError, match="'' model has no hidden_size"):
        Shape.of_config(PretrainedConfig())


@pytest.mark.parametrize("name", CHIPS)
def test_a_chip_reaches_a_share_of_its_datasheet(name):
    shape = Shape.of_config(Qwen3Config(**SIZES))
    bf16, told = machine_of(name, shape, element_bytes=2, row_tokens=128)
    fp32, _ = machine_of(name, shape, element_bytes=4, row_tokens=128)
    assert bf16.flops_per_s == 0.22 * CHIPS[name].bf16_tflops * 1e12 > fp32.flops_per_s
    assert bf16.gpu_gb == CHIPS[name].memory_gb
    assert "22%" in " ".join(told) and ("assumed here" in " ".join(told)) == (name != "h200")
