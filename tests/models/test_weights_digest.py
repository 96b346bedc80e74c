"""A digest of base weights: the same for the same weights however they are stored and held, another for others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_cartridges.models import load_model
from lit_cartridges.models.base_weights import base_of
from lit_cartridges.models.weights_digest import sampled, weights_digest
from tests.saved_models import TENSORS, change_json, change_tensors, save_wide
from tests.tiny_models import tiny_model
from tests.tiny_run import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder)
    return folder


def test_it_is_the_loaded_model_s_in_any_dtype(folder):
    known = weights_digest(folder)
    assert len(known) == 32
    for dtype in ("auto", "bfloat16", "float16"):
        assert base_of(load_model(str(folder), dtype=dtype))["digest"] == known


def test_it_is_read_on_the_cpu_whatever_device_is_the_default(folder):
    """Lightning loads models where that is the one that they are for."""
    known = weights_digest(folder)
    with torch.device("meta"):
        assert weights_digest(folder) == known


def test_it_does_not_depend_on_how_the_files_hold_the_weights(folder, tmp_path):
    known, tensors = weights_digest(folder), load_file(folder / TENSORS)
    tiny_model("llama").save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    (tmp_path / "pickle").mkdir()
    torch.save(tensors, tmp_path / "pickle" / "pytorch_model.bin")
    (tmp_path / "half").mkdir()
    save_file({k: v.bfloat16() for k, v in tensors.items()}, tmp_path / "half" / TENSORS)
    (tmp_path / "renamed").mkdir()
    renamed = {k.replace("model.", "language_model.model.", 1): v for k, v in tensors.items()}
    save_file(renamed, tmp_path / "renamed" / TENSORS)
    assert {weights_digest(tmp_path / kind) for kind in ("shards", "pickle", "half", "renamed")} == {known}


def test_it_is_of_the_file_that_the_config_names(folder, tmp_path):
    """transformers loads that one, and not the usual file beside it."""
    save_model(tmp_path)
    other = {k: v + 1 for k, v in load_file(tmp_path / TENSORS).items()}
    save_file(other, tmp_path / "other.safetensors", metadata={"format": "pt"})
    change_json(tmp_path / "config.json", transformers_weights="other.safetensors")
    model = load_model(str(tmp_path))
    assert torch.equal(model.lm_head.weight, other["lm_head.weight"])
    assert base_of(model)["digest"] not in ("", weights_digest(folder))


def test_a_tied_copy_in_the_files_is_nothing(tmp_path):
    embedding = torch.randn(20, 8)
    for name, more in (("one", {}), ("two", {"lm_head.weight": embedding.clone()})):
        (tmp_path / name).mkdir()
        save_file({"model.embed_tokens.weight": embedding, **more}, tmp_path / name / TENSORS)
    assert weights_digest(tmp_path / "one") == weights_digest(tmp_path / "two")


def test_it_does_not_depend_on_quantisation_while_loading(tmp_path):
    pytest.importorskip("bitsandbytes")
    name = save_wide(tmp_path)
    quantised = base_of(load_model(name, quantization_config={"load_in_4bit": True}))
    assert quantised["digest"] == weights_digest(tmp_path)
    assert quantised["quantization"] == "bitsandbytes"


def test_a_change_of_any_tensor_of_the_model_changes_it(folder, tmp_path):
    """Each one in turn, by a hundredth of its size: less than a fine-tuning does."""
    known, tensors = weights_digest(folder), load_file(folder / TENSORS)
    seen = {known}
    for key, tensor in tensors.items():
        save_file(tensors | {key: tensor * 1.01}, tmp_path / TENSORS)
        seen.add(weights_digest(tmp_path))
    assert len(seen) == len(tensors) + 1


def test_layers_that_change_places_change_it(folder, tmp_path):
    swap = {"layers.0.": "layers.1.", "layers.1.": "layers.0."}

    def swapped(key):
        return next((key.replace(old, new) for old, new in swap.items() if old in key), key)

    save_file({swapped(k): v for k, v in load_file(folder / TENSORS).items()}, tmp_path / TENSORS)
    assert weights_digest(tmp_path) != weights_digest(folder)


def test_a_large_tensor_is_read_at_both_ends_and_between():
    tensor = torch.zeros(100_000)
    assert len(sampled(tensor)) == 2 * 1024
    for place in (0, 63, 6_662, 99_999):
        changed = tensor.clone()
        changed[place] = 1
        assert sampled(changed) != sampled(tensor), place
    assert sampled(torch.tensor([])) == b""


def test_no_files_or_damaged_ones_have_none(folder, tmp_path):
    assert weights_digest(tmp_path) == ""
    (tmp_path / TENSORS).write_bytes(b"x")
    assert weights_digest(tmp_path) == ""
    (tmp_path / TENSORS).unlink()
    (tmp_path / f"{TENSORS}.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    assert weights_digest(tmp_path) == ""


def test_as_many_tensors_as_a_3b_model_s_take_a_tenth_of_a_second(tmp_path):
    """The sizes of its tensors cost nothing, since only the sampled pages of the file are read."""
    save_file({f"model.layers.{i}.weight": torch.zeros(256, 1024) for i in range(300)}, tmp_path / TENSORS)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert weights_digest(tmp_path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1


def test_of_many_tensors_some_are_read(tmp_path):
    tensors = {f"model.layers.{i}.weight": torch.full((8,), float(i)) for i in range(2000)}
    save_file(tensors, tmp_path / TENSORS)
    known = weights_digest(tmp_path)
    change_tensors(tmp_path, lambda all_: {k: v + 1 for k, v in all_.items()})
    assert weights_digest(tmp_path) != known
