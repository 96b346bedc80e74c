"""What a strategy cannot hold is refused by name, before anything is loaded."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lit_cartridges.strategies.frozen_models import FrozenModel
from tests.saved_models import change_json, save_adapter
from tests.tiny_run import fit, new_data, new_module, save_model

ONE = SingleDeviceStrategy(torch.device("cpu"))


def frozen(name: str, **options) -> FrozenModel:
    return FrozenModel(setting="model.model", name=name, dtype="auto", **options)


@pytest.fixture
def stage_3():
    pytest.importorskip("deepspeed")
    from lit_cartridges.strategies.deepspeed_strategy import CartridgeDeepSpeedStrategy

    return CartridgeDeepSpeedStrategy(stage=3)


def test_a_device_map_is_for_one_process(model_folder):
    frozen(model_folder, device_map="auto").require_loadable(ONE)
    with pytest.raises(ValueError, match="model.device_map='auto' with trainer.strategy=DDPStrategy"):
        frozen(model_folder, device_map="auto").require_loadable(DDPStrategy())


def test_stage_3_shards_plain_models_alone(model_folder, tmp_path, stage_3):
    frozen(model_folder).require_loadable(stage_3)
    with pytest.raises(ValueError, match="model.quantization_config=.*cannot be sharded .*stage=2"):
        frozen(model_folder, quantization_config={"load_in_4bit": True}).require_loadable(stage_3)
    with pytest.raises(ValueError, match="model.device_map='cpu' with trainer.strategy=CartridgeDeepSpeed"):
        frozen(model_folder, device_map="cpu").require_loadable(stage_3)
    quantised = save_model(tmp_path / "quantised")
    change_json(
        tmp_path / "quantised" / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}
    )
    with pytest.raises(ValueError, match=f"model.model={quantised!r}: quantised weights, as its config says"):
        frozen(quantised).require_loadable(stage_3)


def test_stage_3_refuses_adapters(model_folder, tmp_path, stage_3):
    peft = pytest.importorskip("peft")
    save_adapter(tmp_path, model_folder, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(
        ValueError, match=f"model.model={str(tmp_path)!r}: a PEFT adapter's weights cannot be sharded"
    ):
        frozen(str(tmp_path)).require_loadable(stage_3)


def test_a_run_with_a_device_map_gives_the_losses_of_one_without(model_folder, tmp_path, corpus):
    """A layer of the model rests on a disk, and is read from there in each step."""
    pytest.importorskip("accelerate")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    _, plain = fit(tmp_path / "plain", new_module(model_folder), new_data(corpus), max_steps=2)
    module = new_module(model_folder, device_map=places)
    _, spread = fit(tmp_path / "spread", module, new_data(corpus), max_steps=2)
    assert spread.losses == pytest.approx(plain.losses, rel=1e-5)
    assert all(name.startswith("cartridge.") for name, _ in module.named_parameters())


def test_token_and_trust_go_to_the_teacher_and_the_revision_does_not(model_folder, tmp_path):
    module = new_module(
        model_folder, teacher_model=save_model(tmp_path), token="t", revision="v1", trust_remote_code=True
    )
    assert module._teacher is not None
    assert module._teacher.hub == {
        "setting": "model.teacher_model",
        "revision": None,
        "token": "t",
        "trust_remote_code": True,
    }
    assert module._student.hub["revision"] == "v1" and "'t'" not in repr(module._student)
