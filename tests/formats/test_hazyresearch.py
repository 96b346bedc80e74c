"""HazyResearch's pickles, as their two releases write them: both spellings, any number of frozen tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_cartridges import Cartridge
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.formats.hazyresearch import HazyResearchFormat
from lit_cartridges.generation import generate
from tests.formats.cartridges import drawn, prefilled, same_content
from tests.tiny_models import tiny_model

HAZY = HazyResearchFormat()


def their_dict(cartridge, *, spelling="frozen", dtype=torch.bfloat16):
    """What `TrainableCache.save` of HazyResearch puts into the file, the empty lists without frozen tokens included."""
    cut = cartridge.num_frozen_tokens
    content = {}
    for side, tensors in zip(("keys", "values"), cartridge.tensors(dtype=dtype), strict=True):
        rows = [x.detach()[None] for x in tensors]
        content[f"trainable_{side}"] = nn.ParameterList(
            [nn.Parameter(x[:, :, cut:].contiguous()) for x in rows]
        )
        content[f"{spelling}_{side}"] = nn.ParameterList(
            [nn.Parameter(x[:, :, :cut].contiguous(), requires_grad=False) for x in rows] if cut else []
        )
    return content


def saved(content, folder):
    torch.save(content, folder / "cache-step8.pt")
    return folder / "cache-step8.pt"


@pytest.mark.parametrize("spelling", ["frozen", "fixed"])
@pytest.mark.parametrize("frozen", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_their_files_are_read_exactly(spelling, frozen, dtype, tmp_path):
    cartridge = drawn(frozen=frozen)
    file = saved(their_dict(cartridge, spelling=spelling, dtype=dtype), tmp_path)
    assert HAZY.recognises(file)
    assert same_content(HAZY.read(file, trust_pickle=True), cartridge)


def test_the_frozen_tokens_are_not_counted_along_the_heads(tmp_path):
    """One of their loaders takes the head axis, and then freezes as many tokens as there are heads."""
    file = saved(their_dict(drawn(heads=4, frozen=1)), tmp_path)
    assert HAZY.read(file, trust_pickle=True).num_frozen_tokens == 1


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_the_model_reads_a_file_as_it_reads_the_cartridge(name, tmp_path):
    cartridge = prefilled(name)
    file = saved(their_dict(cartridge, dtype=torch.float32), tmp_path)
    options = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mine, theirs = (
        generate(tiny_model(name), c, torch.tensor([[5, 6, 7]]), **options)
        for c in (cartridge, HAZY.read(file, trust_pickle=True))
    )
    assert torch.equal(mine, theirs)


def read_as_they_do(file, frozen_name, *, token_axis):
    """Their `from_pretrained`: which keys, values and number of frozen tokens it makes of a file."""
    content = torch.load(file, weights_only=False)
    assert len(content[f"{frozen_name}_keys"]) == len(content["trainable_keys"])
    frozen = content[f"{frozen_name}_keys"][0].size(token_axis)
    sides = [
        [
            torch.cat([first, rest], dim=2)[0] if frozen > 0 else rest[0]
            for first, rest in zip(
                content[f"{frozen_name}_{side}"], content[f"trainable_{side}"], strict=True
            )
        ]
        for side in ("keys", "values")
    ]
    return sides, frozen


@pytest.mark.parametrize("frozen", [0, 1, 5])
def test_both_of_their_loaders_read_what_we_write(frozen, tmp_path):
    cartridge = drawn(frozen=frozen)
    file = tmp_path / "deep" / "cache-step0.pt"
    HAZY.write(cartridge, file)
    older, count = read_as_they_do(file, "fixed", token_axis=2)
    newer, _ = read_as_they_do(file, "frozen", token_axis=1)
    assert count == frozen
    for sides in (older, newer):
        for ours, other in zip(cartridge.tensors(dtype=torch.bfloat16), sides, strict=True):
            assert all(torch.equal(*pair) for pair in zip(ours, other, strict=True))


def test_a_written_file_holds_exactly_these_tensors(tmp_path):
    file = tmp_path / "cache-step0.pt"
    HAZY.write(drawn(), file)
    content = torch.load(file, weights_only=False)
    names = {f"{part}_{side}" for part in ("trainable", "frozen", "fixed") for side in ("keys", "values")}
    assert set(content) == names
    assert {type(value) for value in content.values()} == {nn.ParameterList}
    assert {(tuple(x.shape), x.dtype) for x in content["trainable_keys"]} == {((1, 2, 14, 8), torch.bfloat16)}
    assert {(tuple(x.shape), x.requires_grad) for x in content["frozen_values"]} == {((1, 2, 2, 8), False)}
    assert (
        content["frozen_keys"][0].data_ptr() == content["fixed_keys"][0].data_ptr()
    )  # two names, one storage
    assert [path.name for path in tmp_path.iterdir()] == ["cache-step0.pt"]


@pytest.mark.parametrize("frozen", [0, 2])
def test_a_round_trip_is_exact_in_the_dtype_asked_for(frozen, tmp_path, recwarn):
    keys, values = drawn(frozen=frozen).tensors()
    cartridge = Cartridge([x + 1e-4 for x in keys], values, num_frozen_tokens=frozen)
    HAZY.write(cartridge, tmp_path / "a.pt", dtype=torch.float32)
    assert same_content(HAZY.read(tmp_path / "a.pt", trust_pickle=True), cartridge)
    assert not recwarn.list


def test_what_the_file_cannot_hold_is_said(tmp_path):
    keys, values = drawn().tensors()
    cartridge = Cartridge([x + 1e-4 for x in keys], values, provenance=prefilled("llama").provenance)
    with pytest.warns(UserWarning) as told:
        HAZY.write(cartridge, tmp_path / "a.pt")
    assert [str(warning.message) for warning in told] == [
        "hazyresearch files hold no base_model, fingerprint, steps: left out",
        "hazyresearch files hold bfloat16 here: keys and values were rounded to it",
    ]


def broken(change):
    content = their_dict(drawn())
    change(content)
    return content


def shorter(content, name):
    content[name] = nn.ParameterList(list(content[name])[:-1])


def replaced(content, name, shape):
    content[name] = nn.ParameterList([nn.Parameter(torch.zeros(shape)) for _ in range(3)])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.pop("trainable_values"), "trainable_values missing, found"),
        (lambda c: c.pop("frozen_values"), "frozen_values missing"),
        (lambda c: shorter(c, "frozen_keys"), "2 layers of frozen_keys and 3 of trainable_keys"),
        (lambda c: (shorter(c, "trainable_keys"), shorter(c, "frozen_keys")), "2 keys and 3 values"),
        (lambda c: replaced(c, "trainable_keys", (2, 14, 8)), r"must hold tensors .* found \[2, 14, 8\]"),
        (lambda c: replaced(c, "trainable_keys", (2, 2, 14, 8)), r"found \[2, 2, 14, 8\]"),
        (lambda c: replaced(c, "frozen_keys", (1, 2, 1, 8)), r"different numbers of frozen tokens, \[1, 2\]"),
        (lambda c: replaced(c, "frozen_keys", (1, 3, 2, 8)), "is no cartridge: Sizes of tensors must match"),
        (lambda c: c.update(frozen_keys=nn.ParameterList()), "different numbers of frozen tokens"),
        (lambda c: c.update(trainable_keys=None), "trainable_keys is no list of tensors"),
        (lambda c: c.update(trainable_keys=["a"]), "found str"),
        (lambda c: replaced(c, "trainable_values", (1, 2, 0, 8)), "num_tokens in"),
    ],
)
def test_what_is_no_cartridge_is_named(change, told, tmp_path):
    with pytest.raises(CartridgeFileError, match=told):
        HAZY.read(saved(broken(change), tmp_path), trust_pickle=True)


def test_other_content_is_named(tmp_path):
    with pytest.raises(CartridgeFileError, match="holds a list, not a dict"):
        HAZY.read(saved([1], tmp_path), trust_pickle=True)


def test_a_file_name_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="writes one file; give its name, such as cartridge.pt"):
        HAZY.write(drawn(), tmp_path)
