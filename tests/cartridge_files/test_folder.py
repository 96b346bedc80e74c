"""A cartridge on disk: exact round trip, exact contents, clear errors, never a half-written file (law 5)."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lit_cartridges import Cartridge
from lit_cartridges.cartridge import Fingerprint, Provenance
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.runs.atomic_files import write_atomically

FILES = {"cartridge.safetensors", "cartridge.json", "README.md"}
OLD_FIELDS = {"format_version", "num_tokens", "num_frozen_tokens", "num_layers", "provenance"}


def drawn(seed=0, **known):
    generator = torch.Generator().manual_seed(seed)
    sides = [[torch.randn(2, 6, 8, generator=generator) for _ in range(3)] for _ in range(2)]
    return Cartridge(*sides, num_frozen_tokens=2, provenance=Provenance(**known))


@pytest.fixture
def cartridge(llama):
    return drawn(
        base_model="some/model",
        fingerprint=Fingerprint.of_config(llama.config),
        init="FirstTokens",
        corpus_sha256="c" * 64,
        steps=7,
        loss=0.25,
        notes={"composed_of": ["x"]},
    )


def test_the_round_trip_is_exact(cartridge, tmp_path):
    assert cartridge.save_pretrained(tmp_path / "deep" / "folder") == tmp_path / "deep" / "folder"
    back = Cartridge.from_pretrained(tmp_path / "deep" / "folder")
    mine, theirs = cartridge.state_dict(), back.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert back.provenance == cartridge.provenance
    assert (back.num_tokens, back.num_frozen_tokens) == (6, 2)


@pytest.mark.parametrize("frozen", [0, 5])
def test_the_number_of_frozen_tokens_survives(frozen, tmp_path):
    keys, values = drawn().tensors()
    Cartridge(keys, values, num_frozen_tokens=frozen).save_pretrained(tmp_path)
    assert Cartridge.from_pretrained(tmp_path).num_frozen_tokens == frozen


def test_a_fingerprint_equals_itself_after_a_round_trip(model, tmp_path):
    mine = Fingerprint.of_config(model.config)
    drawn(fingerprint=mine).save_pretrained(tmp_path)
    assert Cartridge.from_pretrained(tmp_path).provenance.fingerprint == mine


def test_the_folder_holds_exactly_these_files_and_tensors(cartridge, tmp_path):
    cartridge.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    tensors = load_file(tmp_path / "cartridge.safetensors")
    assert set(tensors) == {f"layers.{layer}.{name}" for layer in range(3) for name in ("keys", "values")}
    assert {(x.dtype, tuple(x.shape)) for x in tensors.values()} == {(torch.float32, (2, 6, 8))}
    assert torch.equal(tensors["layers.2.values"], cartridge.tensors()[1][2])


def test_the_header_says_the_same_as_the_json(cartridge, tmp_path):
    cartridge.save_pretrained(tmp_path)
    with safe_open(tmp_path / "cartridge.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["cartridge"])
    known = json.loads((tmp_path / "cartridge.json").read_text())
    assert header == known
    assert set(known) == OLD_FIELDS | {"tensors_sha256", "sha256"}
    names = {"base_model", "fingerprint", "init", "corpus_sha256", "steps", "loss", "base", "notes"}
    assert set(known["provenance"]) == names
    assert set(known["provenance"]["fingerprint"]) == {"num_layers", "num_kv_heads", "head_dim", "rope"}


def test_the_tensors_file_alone_is_a_cartridge(cartridge, tmp_path):
    cartridge.save_pretrained(tmp_path)
    (tmp_path / "cartridge.json").unlink()
    (tmp_path / "README.md").unlink()
    assert Cartridge.from_pretrained(tmp_path).provenance == cartridge.provenance


def test_the_model_card_says_what_it_is_and_how_to_load_it(cartridge, tmp_path):
    cartridge.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith(
        "---\nlibrary_name: lit_cartridges\ntags: [cartridge, kv-cache]\nbase_model: some/model\n---\n"
    )
    for fact in (
        "6 positions",
        "`some/model`",
        "2 of them frozen",
        "c" * 64,
        "FirstTokens",
        "7 optimizer steps",
        "0.2500",
    ):
        assert fact in card
    assert "Cartridge.from_pretrained(" in card


@pytest.mark.parametrize("base", ["", "/models/llama", "./llama", "package:lit_cartridges/pocket"])
def test_a_model_that_is_not_on_the_hub_is_not_linked_as_one(base, tmp_path):
    drawn(base_model=base).save_pretrained(tmp_path)
    assert "base_model:" not in (tmp_path / "README.md").read_text()


def rewritten(folder, tensors=None, **changes):
    """The tensors file of a cartridge with another description."""
    drawn().save_pretrained(folder)
    known = json.loads((folder / "cartridge.json").read_text()) | changes
    tensors = load_file(folder / "cartridge.safetensors") if tensors is None else tensors
    save_file(tensors, folder / "cartridge.safetensors", metadata={"cartridge": json.dumps(known)})


@pytest.mark.parametrize("bytes_left", [0, 4, 100, -1])
def test_a_truncated_file_is_named(bytes_left, tmp_path):
    drawn().save_pretrained(tmp_path)
    file = tmp_path / "cartridge.safetensors"
    file.write_bytes(file.read_bytes()[:bytes_left])
    with pytest.raises(CartridgeFileError, match="cartridge.safetensors is truncated or not a cartridge"):
        Cartridge.from_pretrained(tmp_path)


def test_a_foreign_safetensors_file_is_told_from_a_cartridge(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "cartridge.safetensors")
    with pytest.raises(CartridgeFileError, match="not a cartridge's: it has no description"):
        Cartridge.from_pretrained(tmp_path)


def test_a_pickle_is_not_opened(tmp_path):
    torch.save({"trainable_keys": []}, tmp_path / "cartridge.safetensors")
    with pytest.raises(CartridgeFileError, match="truncated or not a cartridge"):
        Cartridge.from_pretrained(tmp_path)


def test_missing_tensors_and_strange_descriptions_are_errors(tmp_path):
    rewritten(tmp_path, num_layers=4)
    with pytest.raises(CartridgeFileError, match="layers.3.keys"):
        Cartridge.from_pretrained(tmp_path)
    rewritten(tmp_path, provenance={"unheard_of": 1})
    with pytest.raises(CartridgeFileError, match="unheard_of"):
        Cartridge.from_pretrained(tmp_path)
    rewritten(tmp_path, num_frozen_tokens=6)
    with pytest.raises(ValueError, match="num_frozen_tokens=6"):
        Cartridge.from_pretrained(tmp_path)


def test_a_newer_format_asks_for_an_upgrade(tmp_path):
    rewritten(tmp_path, format_version=3)
    with pytest.raises(
        CartridgeFileError, match="has format version 3; this release reads up to 2: upgrade it"
    ):
        Cartridge.from_pretrained(tmp_path)


def test_biases_raise_the_format_version_and_survive(tmp_path):
    """Version 1 stays as it was without them, so that older releases still read it, and they refuse version 2."""
    keys, values = drawn().tensors()
    biases = [torch.randn(x.shape[:2]) for x in keys]
    cartridge = Cartridge(keys, values, biases, num_frozen_tokens=2)
    cartridge.save_pretrained(tmp_path)
    back = Cartridge.from_pretrained(tmp_path)
    mine, theirs = cartridge.state_dict(), back.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    tensors = load_file(tmp_path / "cartridge.safetensors")
    assert {name for name in tensors if "biases" in name} == {f"layers.{i}.biases" for i in range(len(keys))}
    assert torch.equal(tensors["layers.1.biases"], biases[1])
    assert json.loads((tmp_path / "cartridge.json").read_text())["format_version"] == 2
    assert "a bias per key" in (tmp_path / "README.md").read_text()
    Cartridge(keys, values).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "cartridge.json").read_text())["format_version"] == 1
    assert Cartridge.from_pretrained(tmp_path).biases() is None


def test_a_version_2_without_its_biases_is_not_all_of_a_cartridge(tmp_path):
    rewritten(tmp_path, format_version=2)
    with pytest.raises(CartridgeFileError, match="layers.0.biases"):
        Cartridge.from_pretrained(tmp_path)


def test_a_folder_without_a_cartridge_is_named(tmp_path):
    with pytest.raises(
        CartridgeFileError, match="holds no cartridge.safetensors; give the folder that save_pretrained"
    ):
        Cartridge.from_pretrained(tmp_path)
    with pytest.raises(CartridgeFileError, match="nowhere' holds no cartridge.safetensors"):
        Cartridge.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_cartridge(failing, tmp_path, monkeypatch):
    old, new = drawn(seed=1), drawn(seed=2)
    old.save_pretrained(tmp_path)

    def crash(*_):
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, crash)
        with pytest.raises(SystemExit):
            new.save_pretrained(tmp_path)
    assert torch.equal(Cartridge.from_pretrained(tmp_path).tensors()[0][0], old.tensors()[0][0])
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_crash_between_the_files_leaves_a_whole_cartridge(tmp_path, monkeypatch):
    """The tensors file carries its own description, so it never goes with another's."""
    old, new = drawn(seed=1, steps=1), drawn(seed=2, steps=2)
    old.save_pretrained(tmp_path)
    monkeypatch.setattr(
        "lit_cartridges.cartridge_files.folder.write_atomically",
        lambda path, content: write_atomically(path, content) if path.suffix == ".safetensors" else None,
    )
    new.save_pretrained(tmp_path)
    back = Cartridge.from_pretrained(tmp_path)
    assert back.provenance.steps == 2
    assert torch.equal(back.tensors()[0][0], new.tensors()[0][0])


def test_a_name_that_is_neither_a_folder_nor_on_the_hub_is_named():
    with pytest.raises(CartridgeFileError, match="'runs/nothing' is no folder here, and the Hub"):
        Cartridge.from_pretrained("runs/nothing")
