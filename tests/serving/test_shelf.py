"""Names on a shelf: direct children alone, checked before anybody sees them, and as they are now."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from lit_cartridges.callbacks import CartridgeCheckpoint
from lit_cartridges.cartridge import Cartridge, Provenance
from lit_cartridges.cartridge_files import TENSORS
from lit_cartridges.errors import SettingError
from lit_cartridges.models import load_model
from lit_cartridges.serving.refusals import Refusal
from lit_cartridges.serving.residents import unreadable_by
from lit_cartridges.serving.shelf import Shelf, require_one_base, served_as
from tests.serving.shelves import fill, of_text, pocket
from tests.tiny_run import fit, new_data, new_module, save_corpus, save_model


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "runs", a=1, b=2)


def served(folder) -> Shelf:
    return Shelf(folder, refuses=unreadable_by(pocket()[0], biases=False))


def test_a_run_and_a_cartridge_of_its_own_have_their_folders_names(folder):
    found = {one.name: one for one in served(folder).all()}
    assert list(found) == ["a", "b"]
    assert found["a"].folder == folder / "a" / "cartridge" and found["b"].folder == folder / "b"
    assert found["a"].facts.num_tokens == of_text(1).num_tokens and found["a"].facts.corpus == "text 1"


NAMES = [
    "",
    ".",
    "..",
    "a/b",
    "../runs/a",
    "a/../b",
    "/etc",
    "a\0",
    "a\n",
    "b/",
    "A",
    "c",
    "x" * 65,
    "a/cartridge",
    "%2e%2e",
    "ä",
]


@pytest.mark.parametrize("name", NAMES)
def test_other_names_are_not_there(folder, name):
    (folder.parent / "outside").mkdir()
    with pytest.raises(Refusal, match="there are: a, b") as told:
        served(folder).find(name)
    assert told.value.status == 404


def test_a_link_out_of_the_folder_is_no_name(folder, tmp_path):
    of_text(1).save_pretrained(tmp_path / "elsewhere")
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    (folder / "d").mkdir()
    (folder / "d" / TENSORS).symlink_to(tmp_path / "elsewhere" / TENSORS)
    (folder / "e").symlink_to(folder / "e")
    (folder / "f").symlink_to(folder / "b")  # which stays in it
    assert served(folder).names() == ["a", "b", "f"]


def _spoilt(folder, how):
    place = folder / "a" / "cartridge"
    file, held = place / TENSORS, of_text(1)
    data = file.read_bytes()
    if how == "truncated":
        file.write_bytes(data[:-5])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "no cartridge":
        file.write_bytes(b"\xff" * 200)
    elif how == "biases":
        keys, values = held.tensors()
        biases = [x.new_zeros(x.shape[:2]) for x in keys]
        Cartridge(keys, values, biases, provenance=held.provenance).save_pretrained(place)
    elif how == "other shape":
        shape = [torch.zeros(2, 8, 8)] * 2
        other = replace(held.provenance.fingerprint, num_kv_heads=2, head_dim=8)
        Cartridge(shape, shape, provenance=Provenance(fingerprint=other)).save_pretrained(place)
    elif how == "other weights":
        held.provenance = replace(held.provenance, base={"digest": "0" * 32})
        held.save_pretrained(place)
    elif how == "other prompts":
        held.provenance = replace(held.provenance, notes={"settings": {"data.enable_thinking": True}})
        held.save_pretrained(place)
    elif how == "description changed":
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        said = json.loads(header["__metadata__"]["cartridge"])
        said["provenance"]["steps"] = 7
        header["__metadata__"]["cartridge"] = json.dumps(said)
        new = json.dumps(header).encode()
        file.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("truncated", "truncated or not a cartridge"),
        ("empty", "truncated or not a cartridge"),
        ("no cartridge", "truncated or not a cartridge"),
        ("biases", "--model.init.bias false"),
        ("other shape", "num_kv_heads: 2 against 6"),
        ("other weights", "others of the same shapes"),
        ("other prompts", "start the server with --enable_thinking 'True'"),
        ("description changed", "sha256 differs"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason_and_without_a_path(folder, how, told, caplog):
    _spoilt(folder, how)
    shelf = served(folder)
    for _ in range(2):
        with pytest.raises(Refusal, match=told) as refusal:
            shelf.find("a")
        assert refusal.value.status == 400 and str(folder) not in refusal.value.message
        assert [one.name for one in shelf.all()] == ["b"]
    assert len(caplog.records) == 1, "each file is told of once"


def test_what_is_added_replaced_or_removed_is_so_at_once(folder):
    shelf = served(folder)
    before = shelf.find("a")
    of_text(3).save_pretrained(folder / "a" / "cartridge")
    assert shelf.find("a").facts.corpus == "text 3" and shelf.find("a").stamp != before.stamp
    of_text(2).save_pretrained(folder / "c")
    assert shelf.find("c").facts.corpus == "text 2"
    shutil.rmtree(folder / "a")
    with pytest.raises(Refusal, match="there are: b, c"):
        shelf.find("a")
    shutil.rmtree(folder)
    assert shelf.all() == []


def test_cartridges_of_two_models_are_named(folder):
    other = of_text(1)
    other.provenance = replace(other.provenance, base_model="some/model")
    other.save_pretrained(folder / "c")
    with pytest.raises(SettingError, match=r"package:lit_cartridges.pocket/model: a, b; some/model: c"):
        require_one_base(Shelf(folder).all())


def test_a_models_name_tells_no_path(tmp_path):
    assert served_as("Qwen/Qwen3-4B") == "Qwen/Qwen3-4B"
    assert served_as(str(tmp_path)) == tmp_path.name
    assert served_as("package:a.b/model") == "a.b/model"


def test_what_training_wrote_in_its_prompts_goes_with_the_cartridge(tmp_path):
    model, corpus = save_model(tmp_path / "model"), save_corpus(tmp_path / "corpus.txt")
    data = new_data(corpus, enable_thinking=True)
    run = tmp_path / "runs" / "a"
    fit(run, new_module(model), data, CartridgeCheckpoint(), max_steps=2, enable_checkpointing=True)
    loaded = load_model(model)
    with pytest.raises(Refusal, match="--enable_thinking 'True'"):
        Shelf(run.parent, refuses=unreadable_by(loaded)).find("a")
    assert (
        Shelf(run.parent, refuses=unreadable_by(loaded, enable_thinking=True)).find("a").facts.num_tokens == 8
    )
