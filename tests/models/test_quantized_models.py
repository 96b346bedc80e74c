"""Quantised models load by name, read cartridges, and train them; their weights stay where and what they are."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.generation import generate
from lit_cartridges.models import load_model, stays_in_place
from lit_cartridges.models.base_weights import base_of
from tests.saved_models import save_wide
from tests.tiny_run import fit, new_data, new_module

IDS = torch.arange(3, 60)[None]
FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_compute_dtype": "float32"}


def torchao_folder(folder):
    """A folder of int8 weights, as torchao saves it."""
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    name = save_wide(folder / "plain")
    config = TorchAoConfig(quant_type=quantization.Int8WeightOnlyConfig())
    AutoModelForCausalLM.from_pretrained(name, quantization_config=config).save_pretrained(
        folder / "quantised"
    )
    return str(folder / "quantised")


def bitsandbytes_folder(folder):
    """A folder of 4-bit weights, as bitsandbytes saves it."""
    pytest.importorskip("bitsandbytes")
    model = load_model(save_wide(folder / "plain"), quantization_config=FOUR_BITS)
    model.save_pretrained(folder / "quantised")
    return str(folder / "quantised")


@pytest.mark.parametrize("save", [torchao_folder, bitsandbytes_folder])
def test_a_quantised_folder_reads_a_cartridge_as_it_reads_the_tokens(save, tmp_path):
    model = load_model(save(tmp_path))
    assert model.dtype == torch.float32 and stays_in_place(model)
    assert not any(p.requires_grad for p in model.parameters())
    assert base_of(model)["quantization"] and base_of(model)["digest"]
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    cartridge = Cartridge(*prefill(model, IDS[0, :40]))
    theirs = model.generate(IDS, **options)[:, -8:]
    assert torch.equal(generate(model, cartridge, IDS[:, 40:], **options)[:, -8:], theirs)


@pytest.mark.parametrize("setting", [FOUR_BITS, {"load_in_8bit": True}])
def test_a_cartridge_trains_on_a_model_quantised_by_the_setting(setting, tmp_path, corpus):
    pytest.importorskip("bitsandbytes")
    module = new_module(save_wide(tmp_path / "model"), quantization_config=setting)
    _, curve = fit(tmp_path, module, new_data(corpus), max_steps=2)
    assert len(curve.losses) == 2
    known = module.cartridge.provenance.base
    assert known["quantization_config"] == setting and known["quantization"] == "bitsandbytes"
    # Whoever moves the module to a device does not move these weights.
    assert all(name.startswith("cartridge.") for name, _ in module.named_parameters())
    assert type(module.student.model.layers[0].mlp.up_proj).__module__.startswith("bitsandbytes")
