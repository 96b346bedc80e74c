"""PEFT's CARTRIDGE adapters against the real package: what one writes, the other reads and generates alike."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from peft import (
    CartridgeConfig,
    PeftConfig,
    PeftModel,
    compose_cartridge_adapters,
    get_peft_model,
    initialize_kv_prefix_from_past_key_values,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lit_cartridges import Cartridge
from lit_cartridges.cartridge import Provenance
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.formats.peft import PeftFormat
from lit_cartridges.generation import generate
from tests.formats.cartridges import drawn, prefilled, same_content
from tests.tiny_models import VOCAB, tiny_model

PEFT = PeftFormat()
MODELS = ["llama", "qwen3"]
GREEDY = {"max_new_tokens": 32, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
# PEFT hands the cache over by its name before transformers 5.24.
pytestmark = pytest.mark.filterwarnings("default:.*past_key_values.*:FutureWarning")


def prompt(rows=2, tokens=7):
    return torch.randint(3, VOCAB, (rows, tokens), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def generated_by_peft(peft_model):
    """By its forward call: its `generate` leaves the prefix out with transformers 5.24 (seen with PEFT 0.21.2)."""
    ids = prompt()
    for _ in range(GREEDY["max_new_tokens"]):
        logits = peft_model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids


def theirs(name, folder, *, tokens=9, frozen=1, past=None, step=False):
    """An adapter made and saved by PEFT, and what PEFT generates with it."""
    config = CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, num_frozen_tokens=frozen)
    torch.manual_seed(5)
    peft_model = get_peft_model(copy.deepcopy(tiny_model(name)), config)
    if past is not None:
        initialize_kv_prefix_from_past_key_values(peft_model, past_key_values=past)
    if step:
        ids = prompt()
        optimizer = torch.optim.Adam([p for p in peft_model.parameters() if p.requires_grad], lr=0.05)
        peft_model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    peft_model.eval().save_pretrained(folder)
    return generated_by_peft(peft_model)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("frozen", [0, 2])
def test_peft_generates_the_same_tokens_with_our_export(name, frozen, tmp_path):
    cartridge = prefilled(name, frozen=frozen)
    PEFT.write(cartridge, tmp_path)
    peft_model = PeftModel.from_pretrained(copy.deepcopy(tiny_model(name)), tmp_path).eval()
    ours = generate(tiny_model(name), cartridge, prompt(), **GREEDY)
    assert ours.shape == (2, 7 + 32)
    assert torch.equal(generated_by_peft(peft_model), ours)
    assert not torch.equal(tiny_model(name).generate(prompt(), **GREEDY), ours)  # the cartridge matters


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("made", ["random", "prefill", "trained"])
def test_we_generate_the_same_tokens_with_their_adapter(name, made, tmp_path):
    past = None
    if made == "prefill":
        past = [(k[None], v[None]) for k, v in zip(*prefilled(name).tensors(), strict=True)]
    expected = theirs(name, tmp_path, past=past, step=made == "trained")
    cartridge = PEFT.read(tmp_path)
    assert (cartridge.num_tokens, cartridge.num_frozen_tokens) == (9, 1)
    assert torch.equal(generate(tiny_model(name), cartridge, prompt(), **GREEDY), expected)


def test_an_adapter_composed_by_peft_is_read(tmp_path):
    """It holds both adapters' positions one after the other, and freezes as many as the first."""
    parts = {"a": drawn(tokens=4, frozen=1), "b": drawn(tokens=6, frozen=2)}
    for name, part in parts.items():
        PEFT.write(part, tmp_path / name)
    compose_cartridge_adapters([tmp_path / name for name in parts], output_path=tmp_path / "both")
    assert same_content(
        PEFT.read(tmp_path / "both"), Cartridge.compose(list(parts.values()), keep_sinks=True)
    )


def test_the_layout_is_position_by_position_key_then_value_of_each_layer(tmp_path):
    cartridge = drawn()
    PEFT.write(cartridge, tmp_path)
    held = load_file(tmp_path / "adapter_model.safetensors")
    assert set(held) == {"prompt_embeddings"}
    keys, values = cartridge.tensors()
    for token in range(cartridge.num_tokens):
        row = [x[:, token].flatten() for k, v in zip(keys, values, strict=True) for x in (k, v)]
        assert torch.equal(held["prompt_embeddings"][token], torch.cat(row))


def test_the_settings_are_those_that_peft_itself_writes(tmp_path):
    PEFT.write(prefilled("qwen3", tokens=9), tmp_path / "ours")
    theirs("qwen3", tmp_path / "theirs")
    ours, other = (
        json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "theirs")
    )
    assert ours | {"peft_version": other["peft_version"], "base_model_name_or_path": None} == other
    assert ours["base_model_name_or_path"] == "tiny/qwen3"
    assert PeftConfig.from_pretrained(tmp_path / "ours").num_virtual_tokens == 9
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("frozen", [0, 1, 15])
def test_a_round_trip_is_exact_and_keeps_the_provenance(frozen, tmp_path, recwarn):
    cartridge = drawn(frozen=frozen, base_model="some/model", init="FirstTokens", steps=7, notes={"a": [1]})
    PEFT.write(cartridge, tmp_path)
    back = PEFT.read(tmp_path)
    assert same_content(back, cartridge)
    assert back.provenance == cartridge.provenance
    assert not recwarn.list  # nothing was lost, so nothing is said


def test_the_fingerprint_comes_back(tmp_path):
    PEFT.write(prefilled("llama"), tmp_path)
    assert PEFT.read(tmp_path).provenance == prefilled("llama").provenance


def test_an_adapter_saved_again_by_peft_is_no_longer_called_ours(tmp_path):
    """PEFT may have trained it, so steps and loss would be wrong."""
    PEFT.write(prefilled("llama"), tmp_path / "ours")
    PeftModel.from_pretrained(copy.deepcopy(tiny_model("llama")), tmp_path / "ours").save_pretrained(
        tmp_path / "again"
    )
    assert PEFT.read(tmp_path / "again").provenance == Provenance(base_model="tiny/llama")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_is_written_and_rounding_said(dtype, tmp_path):
    keys, values = drawn().tensors()
    cartridge = Cartridge([x + 1e-4 for x in keys], values, num_frozen_tokens=2)
    with pytest.warns(UserWarning, match="keys and values were rounded to it"):
        PEFT.write(cartridge, tmp_path, dtype=dtype)
    with safe_open(tmp_path / "adapter_model.safetensors", framework="pt") as held:
        assert held.get_tensor("prompt_embeddings").dtype == dtype
    assert torch.equal(PEFT.read(tmp_path).tensors()[0][0], (keys[0] + 1e-4).to(dtype).float())


def test_a_pickled_adapter_needs_to_be_asked_for(tmp_path):
    cartridge = drawn()
    PEFT.write(cartridge, tmp_path)
    torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(CartridgeFileError, match="adapter_model.bin is a pickle, .* --trust_pickle"):
        PEFT.read(tmp_path)
    assert same_content(PEFT.read(tmp_path, trust_pickle=True), cartridge)


def changed(folder, **settings):
    PEFT.write(drawn(), folder)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"peft_type": "LORA"}, "is of a LORA adapter; only CARTRIDGE"),
        ({"num_virtual_tokens": 15}, r"\[16, 96\], and adapter_config.json says \[15, 96\]"),
        ({"num_layers": 4}, r"says \[16, 128\]: .* num_layers=4"),
        ({"num_attention_heads": 3}, "num_attention_heads=3"),
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules=2; a causal LM's has 1"),
        ({"token_dim": "gone"}, "missing or no number: 'token_dim'"),
        ({"num_frozen_tokens": 16}, "num_frozen_tokens=16 with num_tokens=16"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, told, tmp_path):
    changed(tmp_path, **settings)
    with pytest.raises(CartridgeFileError, match=told):
        PEFT.read(tmp_path)


@pytest.mark.parametrize("bytes_left", [0, 4, 100, -1])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_truncated_file_is_named(name, bytes_left, tmp_path):
    PEFT.write(drawn(), tmp_path)
    file = tmp_path / name
    cut = -3 if name.endswith("json") and bytes_left == -1 else bytes_left
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(CartridgeFileError, match=f"{name} is truncated or"):
        PEFT.read(tmp_path)


def test_other_adapters_and_missing_tensors_are_told_from_cartridges(tmp_path):
    PEFT.write(drawn(), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({"prompt_embeddings": torch.zeros(16, 96), "lm_head": torch.zeros(2)}, file)
    with pytest.raises(CartridgeFileError, match=r"holds \['lm_head', 'prompt_embeddings'\]"):
        PEFT.read(tmp_path)
    file.unlink()
    with pytest.raises(CartridgeFileError, match="adapter_model.safetensors is not there"):
        PEFT.read(tmp_path)


def test_layers_of_different_shapes_are_refused(tmp_path):
    keys, values = ([torch.zeros(heads, 4, 8) for heads in (1, 2)] for _ in range(2))
    with pytest.raises(ValueError, match=r"different \(kv_heads, head_dim\), \[\(1, 8\), \(2, 8\)\]"):
        PEFT.write(Cartridge(keys, values), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_name_in_the_settings_counts(tmp_path):
    cartridge = drawn(base_model="some/model")
    PEFT.write(cartridge, tmp_path)
    changed_config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(changed_config | {"base_model_name_or_path": "moved/model"})
    )
    assert PEFT.read(tmp_path).provenance == replace(cartridge.provenance, base_model="moved/model")
