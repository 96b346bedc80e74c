"""A model loaded a layer at a time is the model that transformers loads; only a layer's worth is whole at a time.

Here a complete layer is only noted; `test_two_processes` tests what DeepSpeed does with it.
"""

from __future__ import annotations

import copy
import json

import pytest
import torch

from lit_cartridges.models import load_model
from lit_cartridges.models.base_weights import base_of
from lit_cartridges.strategies import sharded_loading
from lit_cartridges.strategies.sharded_loading import load_sharded
from lit_cartridges.strategies.sharded_weights import sharded_modules
from tests.saved_models import MULTIMODAL, change_json, save_multimodal
from tests.tiny_models import ARCHITECTURES, tiny_model
from tests.tiny_run import save_model

CPU = torch.device("cpu")
CONFIG = {"zero_optimization": {"stage": 3}}


@pytest.fixture
def noted(monkeypatch):
    """The modules that would have been sharded, and how many parameters elsewhere were still to be read then."""
    modules: list[torch.nn.Module] = []
    monkeypatch.setattr(sharded_loading, "shard", lambda module, config, store: modules.append(module))
    return modules


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"], ids=["one file", "several files"])
def test_it_is_the_model_that_transformers_loads(architecture, max_shard_size, tmp_path, noted):
    tiny_model(architecture).save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "20KB")
    ours = load_sharded(str(tmp_path), dtype="auto", device=CPU, config=CONFIG)
    theirs = load_model(str(tmp_path))
    assert [m for m in ours.modules() if m in noted] == sharded_modules(ours)
    assert not any(parameter.requires_grad for parameter in ours.parameters()) and not ours.training
    assert ours.config._name_or_path == str(tmp_path)
    assert ours.generation_config.eos_token_id == theirs.generation_config.eos_token_id
    ids = torch.arange(7, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=0)


def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path, noted):
    tiny_model("llama").save_pretrained(tmp_path / "model", max_shard_size="20KB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    known = json.loads(index.read_text())
    name = next(iter(known["weight_map"]))
    known["weight_map"][name] = f"../model/{known['weight_map'][name]}"
    index.write_text(json.dumps(known))
    with pytest.raises(ValueError, match="index.json names a file outside of the folder: '../model/model-"):
        load_sharded(str(tmp_path / "model"), dtype="auto", device=CPU, config=CONFIG)


@pytest.mark.parametrize("kind", sorted(MULTIMODAL))
def test_a_multimodal_model_is_the_one_that_transformers_loads_too(kind, tmp_path, noted):
    save_multimodal(tmp_path, kind)
    ours = load_sharded(str(tmp_path), dtype="auto", device=CPU, config=CONFIG)
    ids, theirs = torch.arange(7, 40)[None], load_model(str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=0)


def test_it_knows_its_weights_as_a_whole_model_does(tmp_path, noted):
    name = save_model(tmp_path)
    known = base_of(load_sharded(name, dtype="bfloat16", device=CPU, config=CONFIG))
    assert known == base_of(load_model(name, dtype="bfloat16")) and known["digest"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 1}, "files hold 9 weights that its config leaves out"),
        ({"vocab_size": 98}, "have other shapes than its config says"),
    ],
)
def test_a_config_of_other_weights_is_refused(changes, told, tmp_path, noted):
    name = save_model(tmp_path)
    change_json(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=f"^model={name!r}: .*{told}"):
        load_sharded(name, dtype="auto", device=CPU, config=CONFIG)


def test_the_rest_is_not_read_before_a_layer_is_sharded(tmp_path, monkeypatch):
    name, whole = save_model(tmp_path), []
    loaded = {}

    def note(module, config, store):
        for parameter in module.parameters():  # as DeepSpeed leaves them: this process's share
            parameter.data = parameter.data[:0]
        whole.append(sum(p.numel() for p in loaded["model"].parameters() if not p.is_meta))

    original = sharded_loading.sharded_modules
    monkeypatch.setattr(sharded_loading, "sharded_modules", lambda m: original(loaded.setdefault("model", m)))
    monkeypatch.setattr(sharded_loading, "shard", note)
    load_sharded(name, dtype="auto", device=CPU, config=CONFIG)
    model = tiny_model("llama")
    kept = model.lm_head.weight.numel() + model.model.norm.weight.numel()
    assert len(whole) == 3 and max(whole) <= kept


def test_the_dtype_is_the_one_asked_for(tmp_path, noted):
    name = save_model(tmp_path)
    model = load_sharded(name, dtype="bfloat16", device=CPU, config=CONFIG)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.dtype == load_model(name, dtype="bfloat16").dtype
    assert {x.dtype for x in model.buffers()} == {torch.float32}  # rotary frequencies


def test_a_folder_without_safetensors_is_refused(tmp_path):
    name = save_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"it has no model.safetensors: only safetensors files"):
        load_sharded(name, dtype="auto", device=CPU, config=CONFIG)


def test_files_that_lack_a_weight_are_refused(tmp_path, noted):
    from safetensors.torch import load_file, save_file

    name = save_model(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"its files lack model.layers.1.mlp.up_proj.weight, 1 tensors in all"
    ):
        load_sharded(name, dtype="auto", device=CPU, config=CONFIG)


def test_models_whose_layers_cannot_be_told_apart_are_refused():
    model = copy.deepcopy(tiny_model("llama"))
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM has layers that share weights .* choose stage 0, 1 or 2"
    ):
        sharded_modules(model)
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has no layers to shard; choose stage 0, 1 or 2"):
        sharded_modules(model)
