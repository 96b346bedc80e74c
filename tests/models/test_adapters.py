"""The folder of a PEFT adapter is a model: its base with the adapter active."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lit_cartridges.models import ModelError, load_config, load_model, load_tokenizer
from lit_cartridges.models.base_weights import base_of
from tests.saved_models import change_json, change_tensors, save_adapter, save_wide
from tests.tiny_run import fit, new_data, new_module, save_model

peft = pytest.importorskip("peft")
IDS = torch.arange(3, 40)[None]
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


@pytest.fixture(scope="module")
def lora(tmp_path_factory) -> tuple[str, str]:
    """Folders of a LoRA adapter and of its base."""
    folder = tmp_path_factory.mktemp("lora")
    base = save_model(folder / "base")
    save_adapter(folder / "adapter", base, peft.LoraConfig(**LORA))
    return str(folder / "adapter"), base


@pytest.fixture
def spoiled(lora, tmp_path):
    """A copy of the adapter, to be spoiled."""
    return Path(shutil.copytree(lora[0], tmp_path / "adapter"))


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(**LORA),
        peft.LoraConfig(**LORA, use_dora=True, use_rslora=True),
        peft.LoraConfig(
            r=2, target_modules="all-linear", modules_to_save=["lm_head"], init_lora_weights=False
        ),
        peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], init_ia3_weights=False),
    ],
    ids=["lora", "dora", "head too", "ia3"],
)
def test_its_logits_are_those_of_peft_and_not_the_base_s(config, tmp_path):
    base = save_model(tmp_path / "base")
    theirs = save_adapter(tmp_path / "adapter", base, config)
    model = load_model(str(tmp_path / "adapter"))
    assert torch.equal(model(IDS).logits, theirs(input_ids=IDS).logits)
    assert (model(IDS).logits - load_model(base)(IDS).logits).abs().max() > 0.01
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.config._name_or_path == str(tmp_path / "adapter")


def test_config_and_tokenizer_are_the_base_s_unless_it_brings_its_own(lora, tmp_path):
    adapter, base = lora
    assert load_config(adapter).to_dict() == load_config(base).to_dict()
    assert load_tokenizer(adapter).get_vocab() == load_tokenizer(base).get_vocab()
    own = shutil.copytree(adapter, tmp_path / "own")
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(["of_the_adapter"])
    tokenizer.save_pretrained(own)
    assert "of_the_adapter" in load_tokenizer(str(own)).get_vocab()


def test_a_quantised_base_takes_it(tmp_path):
    pytest.importorskip("bitsandbytes")
    base = save_wide(tmp_path / "base")
    save_adapter(tmp_path / "adapter", base, peft.LoraConfig(**LORA))
    model = load_model(str(tmp_path / "adapter"), quantization_config={"load_in_4bit": True})
    plain = load_model(base, quantization_config={"load_in_4bit": True})
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    assert torch.equal(model(IDS).logits, theirs(input_ids=IDS).logits)


def test_a_cartridge_trains_on_it(lora, tmp_path, corpus):
    module = new_module(lora[0])
    _, curve = fit(tmp_path, module, new_data(corpus), max_steps=2)
    assert len(curve.losses) == 2
    assert module.cartridge.provenance.base["digest"] == base_of(load_model(lora[0]))["digest"]
    assert {name for name, p in module.named_parameters() if p.requires_grad} == {
        f"cartridge.trainable_{side}.{layer}" for side in ("keys", "values") for layer in (0, 1)
    }


def test_its_own_weights_and_scale_count_in_the_digest(lora, spoiled):
    def digest(folder):
        return base_of(load_model(str(folder)))["digest"]

    known = {digest(folder) for folder in lora}
    change_json(spoiled / "adapter_config.json", lora_alpha=99)
    known.add(digest(spoiled))
    change_json(spoiled / "adapter_config.json", lora_alpha=8)
    assert digest(spoiled) in known
    change_tensors(spoiled, lambda all_: {k: v * 1.1 for k, v in all_.items()}, "adapter_model.safetensors")
    assert digest(spoiled) not in known and len(known) == 3


def weights(folder):
    return folder / "adapter_model.safetensors"


def evil(folder):
    weights(folder).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x02cos\nsystem\nU\x04trueR.")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "of type PREFIX_TUNING, which is no change of weights"),
        ({"peft_type": "CARTRIDGE"}, "lit-cartridges convert makes a cartridge"),
        ({"peft_type": "NONE_SUCH"}, "NONE_SUCH"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"base_model_name_or_path": "/no/where"}, "no folder '/no/where'"),
        ({"base_model_name_or_path": "package:innocent/x"}, "no installed package declares 'innocent'"),
        ({"megatron_config": {"a": 1}, "megatron_core": "innocent"}, "would import what a file names"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, "the adapter lacks 4 weights .*k_proj"),
        (
            lambda folder: change_tensors(folder, _other_layer, weights(folder).name),
            "no place in the base for 1 weights",
        ),
        (lambda folder: (folder / "adapter_config.json").write_text("["), "not JSON"),
        (lambda folder: weights(folder).unlink(), "without its weights"),
        (
            lambda folder: weights(folder).write_bytes(weights(folder).read_bytes()[:-9]),
            "truncated or damaged",
        ),
        (lambda folder: (folder / "config.json").write_text("{}"), "holds a model .* and an adapter"),
        (evil, "a pickle that asks for more than tensors"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(spoil, told, spoiled):
    if isinstance(spoil, dict):
        change_json(spoiled / "adapter_config.json", **spoil)
    else:
        spoil(spoiled)
    with pytest.raises(ModelError, match=f"^model={str(spoiled)!r}: .*{told}") as error:
        load_model(str(spoiled))
    assert "\n" not in str(error.value)


def _other_layer(tensors):
    key = next(iter(tensors))
    return tensors | {key.replace("layers.0", "layers.7"): tensors[key].clone()}


def test_an_adapter_on_an_adapter_or_on_another_shape_is_refused(lora, spoiled, tmp_path):
    change_json(spoiled / "adapter_config.json", base_model_name_or_path=lora[0])
    with pytest.raises(ModelError, match="its base .* is an adapter too"):
        load_model(str(spoiled))
    change_json(spoiled / "adapter_config.json", base_model_name_or_path=save_wide(tmp_path / "wide"))
    with pytest.raises(ModelError, match="size mismatch"):
        load_model(str(spoiled))


def test_without_peft_the_extra_is_named(lora, monkeypatch):
    monkeypatch.setattr("lit_cartridges.models.adapters.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'lit_cartridges\[lora\]'"):
        load_config(lora[0])
    assert json.loads(Path(lora[0], "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert load_file(weights(Path(lora[0])))
