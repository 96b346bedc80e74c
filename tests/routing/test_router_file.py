"""A router's file gives back what was saved, beside its own cartridge alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lit_cartridges.cartridge_files.description import sha256_of
from lit_cartridges.routing import RouterError, load_router, save_router
from lit_cartridges.routing.router_file import ROUTER, owner_of
from tests.formats.cartridges import drawn
from tests.routing.routers import made
from tests.tiny_models import tiny_config_model, tiny_model
from tests.tiny_run import tokenizer

ASKED = [f"w{i} w{i + 1}" for i in range(20)]
OTHERS = [f"w{i} w{j}" for i in range(30, 40) for j in (50, 51, 52)]


@pytest.fixture
def folder(tmp_path):
    return drawn(tokens=4, corpus_sha256="c" * 64, base={"digest": "d" * 32}).save_pretrained(
        tmp_path / "own"
    )


@pytest.fixture
def router(folder):
    known = owner_of(folder)
    return replace(made(tiny_model("llama"), tokenizer(), ASKED, OTHERS), owner=known, negatives_from="a.txt")


def test_it_comes_back_as_it_was(folder, router):
    assert load_router(folder) is None
    save_router(router, folder)
    again = load_router(folder)
    for name in ("alpha", "nearest", "layer", "num_layers", "owner", "negatives_from", "threshold"):
        assert getattr(again, name) == getattr(router, name), name
    assert torch.equal(again.questions, router.questions) and torch.equal(again.negatives, router.negatives)
    vectors = torch.nn.functional.normalize(torch.randn(5, 32), dim=1)
    assert torch.equal(again.scores(vectors), router.scores(vectors))


def test_it_stays_right_while_the_training_goes_on(folder, router):
    save_router(router, folder)
    drawn(tokens=6, corpus_sha256="c" * 64, base={"digest": "d" * 32}).save_pretrained(folder)
    assert load_router(folder) is not None


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            {"corpus_sha256": "e" * 64, "base": {"digest": "d" * 32}},
            "of another cartridge .corpus sha256 cccc",
        ),
        (
            {"corpus_sha256": "c" * 64, "base": {"digest": "e" * 32}},
            "of another cartridge .base model's digest",
        ),
        ({"base": {"digest": "d" * 32}}, "of other keys and values"),
    ],
)
def test_beside_another_cartridge_it_is_refused(tmp_path, router, other, told):
    beside = drawn(tokens=5, **other).save_pretrained(tmp_path / "other")
    save_router(router, beside)
    with pytest.raises(RouterError, match=rf"router\.safetensors is the router {told}.*--router off"):
        load_router(beside)


def test_where_no_corpus_is_known_it_belongs_to_the_tensors(tmp_path, router):
    beside = drawn(tokens=4).save_pretrained(tmp_path / "other")
    save_router(replace(router, owner=owner_of(beside)), beside)
    assert load_router(beside) is not None


def forged(folder, change):
    """The file with another header, whose checksum is right."""
    file = folder / ROUTER
    with safe_open(file, framework="pt") as held:
        known = json.loads(held.metadata()["router"])
    known = {**known, **change}
    save_file(load_file(file), file, metadata={"router": json.dumps({**known, "sha256": sha256_of(known)})})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format_version": 2}, "format_version=2; this release reads 1"),
        ({"layer": 3}, "layer must be a whole number from 1 to 2"),
        ({"alpha": 0.001}, "needs at least 999 negatives"),
        ({"alpha": 2.0}, "alpha is 2.0"),
        ({"nearest": 0}, "nearest must be"),
        ({"more": 1}, "does not know"),
        ({"tensors_sha256": "0"}, "tensors were changed"),
    ],
)
def test_a_header_that_lies_is_refused(folder, router, change, told):
    save_router(router, folder)
    forged(folder, change)
    with pytest.raises(RouterError, match=rf"router\.safetensors is damaged, or no router: .*{told}"):
        load_router(folder)


def test_every_cut_and_flip_is_refused(folder, router):
    file = save_router(router, folder)
    whole = file.read_bytes()
    for at in range(0, len(whole), 97):
        for spoilt in (whole[:at], whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :]):
            file.write_bytes(spoilt)
            with pytest.raises(RouterError, match=r"router\.safetensors"):
                load_router(folder)


def test_another_model_is_refused(router):
    router.require_model(tiny_model("llama"))
    with pytest.raises(RouterError, match=r"another model .*\(layers, width\) \(2, 32\) against \(3, 32\)"):
        router.require_model(tiny_config_model("llama", num_hidden_layers=3))
