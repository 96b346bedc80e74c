"""Models by name: Hub ids and folders as they are, ``package:`` names inside an installed package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lit_cartridges
from lit_cartridges.models import load_config, load_model, load_tokenizer, resolve
from tests.tiny_run import save_model


def test_hub_ids_and_folders_stay_as_they_are():
    assert resolve("meta-llama/Llama-3.2-3B") == "meta-llama/Llama-3.2-3B"
    assert resolve("./folder") == "./folder"


def test_a_package_name_is_a_folder_of_that_package():
    assert (
        Path(resolve("package:lit_cartridges.pocket/model"))
        == Path(lit_cartridges.__file__).parent / "pocket/model"
    )


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_a_model_comes_frozen_in_eval_mode_and_in_the_wanted_dtype(dtype, tmp_path):
    name = save_model(tmp_path)
    model = load_model(name, dtype=dtype)
    assert model.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert model.config._name_or_path == name


def test_config_and_tokenizer_need_no_weights(tmp_path):
    name = save_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert load_config(name).num_hidden_layers == 2
    assert load_tokenizer(name).convert_tokens_to_ids("w0") == 7
