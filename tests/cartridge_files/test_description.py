"""A cartridge's file is what was written: any changed bit, any claim that the tensors do not bear out, is refused."""

from __future__ import annotations

import json
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_cartridges import Cartridge
from lit_cartridges.cartridge import Provenance
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.cartridge_files.description import (
    NotFiniteError,
    require_finite,
    sha256_of,
    tensors_sha256,
)
from tests.formats.cartridges import drawn, prefilled, same_content, with_biases

TENSORS = "cartridge.safetensors"


def rewritten(folder, tensors=None, *, sealed=True, **changes):
    """A cartridge of 3 layers [2, 4, 8] with another description or other tensors, and the checksums of these."""
    drawn(tokens=4, frozen=1).save_pretrained(folder)
    tensors = load_file(folder / TENSORS) if tensors is None else tensors
    known = json.loads((folder / "cartridge.json").read_text()) | {"tensors_sha256": tensors_sha256(tensors)}
    known |= changes
    if sealed:
        known["sha256"] = sha256_of(known)
    save_file(tensors, folder / TENSORS, metadata={"cartridge": json.dumps(known)})
    (folder / "cartridge.json").unlink()


def other_tensors(**changes):
    tensors = {f"layers.{i}.{side}": torch.ones(2, 4, 8) for i in range(3) for side in ("keys", "values")}
    return {
        name: x
        for name, x in (tensors | {k.replace("_", "."): v for k, v in changes.items()}).items()
        if x is not None
    }


def refused(folder, told):
    with pytest.raises(CartridgeFileError, match=told) as caught:
        Cartridge.from_pretrained(folder)
    assert str(folder / TENSORS) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda: prefilled("llama", tokens=4), lambda: with_biases(drawn(tokens=4))])
def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(make, tmp_path):
    cartridge = make()
    cartridge.save_pretrained(tmp_path)
    whole, draw, unseen = (tmp_path / TENSORS).read_bytes(), random.Random(0), 0
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in [*draw.sample(range(header), 300), *draw.sample(range(header, len(whole)), 100)]:
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        (tmp_path / TENSORS).write_bytes(changed)
        try:
            back = Cartridge.from_pretrained(tmp_path)
        except CartridgeFileError as error:
            assert str(tmp_path / TENSORS) in str(error)
        else:
            unseen += 1  # a letter of JSON that can be written in two ways
            assert same_content(back, cartridge) and back.provenance == cartridge.provenance
    assert unseen < 10


def test_a_file_of_a_release_without_checksums_is_read(tmp_path):
    cartridge = drawn(tokens=4, steps=3)
    cartridge.save_pretrained(tmp_path)
    for file in (tmp_path / TENSORS, tmp_path / "cartridge.json"):
        known = json.loads((tmp_path / "cartridge.json").read_text())
        old = {name: known[name] for name in known if "sha256" not in name}
        if file.suffix == ".json":
            file.write_text(json.dumps(old))
        else:
            save_file(load_file(file), file, metadata={"cartridge": json.dumps(old)})
    back = Cartridge.from_pretrained(tmp_path)
    assert same_content(back, cartridge) and back.provenance == cartridge.provenance


@pytest.mark.parametrize("gone", ["sha256", "tensors_sha256"])
def test_half_of_the_checksums_is_damage_and_no_old_file(gone, tmp_path):
    drawn().save_pretrained(tmp_path)
    known = json.loads((tmp_path / "cartridge.json").read_text())
    del known[gone]
    save_file(load_file(tmp_path / TENSORS), tmp_path / TENSORS, metadata={"cartridge": json.dumps(known)})
    refused(tmp_path, f"description is damaged, or of a newer release: '{gone}'")


def test_a_description_changed_by_hand_is_refused(tmp_path):
    rewritten(tmp_path, sealed=False, num_frozen_tokens=2)
    refused(tmp_path, r"description was changed after it was written \(sha256 differs\)")
    rewritten(tmp_path, num_frozen_tokens=2)
    assert Cartridge.from_pretrained(tmp_path).num_frozen_tokens == 2


def test_tensors_changed_by_hand_are_refused(tmp_path):
    rewritten(tmp_path, tensors_sha256="0" * 64)
    refused(tmp_path, r"tensors were changed after they were written \(tensors_sha256 differs\)")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff"])
def test_a_damaged_copy_of_the_description_is_named(content, tmp_path):
    drawn().save_pretrained(tmp_path)
    (tmp_path / "cartridge.json").write_bytes(content)
    with pytest.raises(CartridgeFileError, match="cartridge.json is damaged: .* delete cartridge.json"):
        Cartridge.from_pretrained(tmp_path)


def test_a_flipped_bit_in_the_copy_is_seen(tmp_path):
    drawn(base_model="some/model").save_pretrained(tmp_path)
    text = (tmp_path / "cartridge.json").read_text()
    (tmp_path / "cartridge.json").write_text(text.replace("some/model", "some/model".replace("s", "r")))
    with pytest.raises(CartridgeFileError, match="cartridge.json is damaged: .*sha256 differs"):
        Cartridge.from_pretrained(tmp_path)


def test_the_copy_of_another_save_is_told_of_and_does_not_count(tmp_path):
    drawn(steps=1).save_pretrained(tmp_path)
    old = (tmp_path / "cartridge.json").read_bytes()
    drawn(steps=2).save_pretrained(tmp_path)
    (tmp_path / "cartridge.json").write_bytes(old)
    with pytest.warns(UserWarning, match="cartridge.json is of another save than cartridge.safetensors"):
        assert Cartridge.from_pretrained(tmp_path).provenance.steps == 2


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"layers_2_keys": None}, "num_layers=3, and layers.2.keys is missing"),
        ({"layers_1_values": None}, "layers.1.values is missing"),
        ({"layers_3_keys": torch.ones(2, 4, 8)}, "not a cartridge's: 'layers.3.keys'"),
        ({"layers_0_biases": torch.ones(2, 4)}, "not a cartridge's: 'layers.0.biases'"),
        (
            {"layers_0_keys": torch.ones(2, 5, 8)},
            r"layers.0.keys is \[2, 5, 8\], and num_tokens is said to be 4",
        ),
        ({"layers_0_keys": torch.ones(4, 8)}, r"layers.0.keys is \[4, 8\]"),
        ({"layers_0_keys": torch.ones(2, 4, 0)}, r"layers.0.keys is \[2, 4, 0\]"),
        (
            {"layers_0_values": torch.ones(3, 4, 8)},
            "layers.0.values has 3 kv heads, and the keys of its layer 2",
        ),
        ({"layers_0_keys": torch.ones(2, 4, 8, dtype=torch.int32)}, "layers.0.keys is int32, which no key"),
        ({"layers_0_keys": torch.ones(2, 4, 8, dtype=torch.complex64)}, "layers.0.keys is complex64"),
        ({"layers_0_keys": torch.ones(2, 4, 8, dtype=torch.bool)}, "layers.0.keys is bool"),
        ({"layers_0_keys": torch.full((2, 4, 8), float("nan"))}, "keys of layer 0 hold values that are NaN"),
        (
            {"layers_2_values": torch.full((2, 4, 8), -float("inf"))},
            "values of layer 2 hold values that are NaN",
        ),
        ({"layers_0_keys": torch.full((2, 4, 8), 1e300, dtype=torch.float64)}, "infinite in float32"),
    ],
)
def test_what_is_said_is_compared_with_the_tensors(tensors, told, tmp_path):
    rewritten(tmp_path, other_tensors(**tensors))
    refused(tmp_path, told)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_another_floating_type_are_read(dtype, tmp_path):
    rewritten(tmp_path, {name: x.to(dtype) for name, x in other_tensors().items()})
    assert Cartridge.from_pretrained(tmp_path).tensors()[0][0].dtype == torch.float32


@pytest.mark.parametrize("name", ["num_layers", "num_tokens", "num_frozen_tokens", "format_version"])
@pytest.mark.parametrize("value", ["3", 3.0, None, True, -1, [], {}, 10**30])
def test_a_number_that_is_none_is_named(name, value, tmp_path):
    rewritten(tmp_path, **{name: value})
    refused(tmp_path, f"{name} must be a whole number from [01] up, found")


@pytest.mark.parametrize(
    ("provenance", "told"),
    [
        ("text", "provenance must be an object"),
        ({"steps": "many"}, "provenance.steps must be a whole number"),
        ({"base_model": None}, "provenance.base_model must be str"),
        ({"loss": "low"}, "provenance.loss must be float"),
        ({"notes": []}, "provenance.notes must be dict"),
        ({"fingerprint": {"num_layers": 3}}, "provenance.fingerprint has no num_kv_heads"),
        ({"loss": float("nan")}, "NaN is no finite number"),
        ({"init": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_a_provenance_of_other_types_is_named(provenance, told, tmp_path):
    rewritten(tmp_path, provenance=provenance)
    refused(tmp_path, told)


@pytest.mark.parametrize("text", ["", "{", "null", "[" * 100_000, "9" * 5000, '"\\ud800"', "{}"])
def test_a_description_that_is_none_is_refused(text, tmp_path):
    drawn().save_pretrained(tmp_path)
    save_file(load_file(tmp_path / TENSORS), tmp_path / TENSORS, metadata={"cartridge": text})
    refused(tmp_path, "cartridge.safetensors: ")


def test_a_cartridge_with_nan_is_told_of_when_saved_and_never_loaded(tmp_path):
    keys, values = drawn().tensors()
    spoilt = Cartridge([keys[0] * float("nan"), *keys[1:]], values)
    with pytest.raises(NotFiniteError, match="the keys of layer 0 hold"):
        require_finite(spoilt)
    with pytest.warns(UserWarning, match="keys of layer 0 .* will be refused when it is loaded"):
        spoilt.save_pretrained(tmp_path)
    refused(tmp_path, "keys of layer 0")
    with pytest.raises(NotFiniteError):
        spoilt.push_to_hub("some/where")


@pytest.mark.parametrize(
    "known", [{"loss": float("inf")}, {"notes": {"a": {1}}}, {"init": "\udc80"}, {"steps": -1}]
)
def test_a_provenance_that_would_not_be_read_again_is_not_written(known, tmp_path):
    keys, values = drawn().tensors()
    with pytest.raises(ValueError):
        Cartridge(keys, values, provenance=Provenance(**known)).save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
