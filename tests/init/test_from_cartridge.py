"""Another cartridge as the start: cut, or grown by a second strategy."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.init import FirstTokens, FromCartridge, RandomVectors, Text
from tests.init.context import CORPUS, OPENING, all_tensors, close, naive_prefill, new_context, same
from tests.tiny_models import tiny_model


@pytest.fixture
def saved(llama, tmp_path):
    """A cartridge of the first 8 tokens, opening included."""
    Cartridge(*prefill(llama, (OPENING + CORPUS)[:8]), num_frozen_tokens=2).save_pretrained(tmp_path / "old")
    return str(tmp_path / "old")


def test_a_longer_one_is_cut_to_its_first_positions(llama, saved):
    tensors = FromCartridge(path=saved).tensors(new_context(llama, 5))
    expected = [x[:, :5] for x in all_tensors_of(saved)]
    assert all(torch.equal(a, b) for a, b in zip(all_tensors(tensors), expected, strict=True))
    assert not any(x.requires_grad for x in all_tensors(tensors))


def all_tensors_of(path):
    keys, values = Cartridge.from_pretrained(path).tensors()
    return [*keys, *values]


def test_one_of_the_same_length_is_taken_as_it_is(llama, saved):
    tensors = FromCartridge(path=saved, grow=FirstTokens()).tensors(new_context(llama, 8))
    assert all(torch.equal(a, b) for a, b in zip(all_tensors(tensors), all_tensors_of(saved), strict=True))


def test_a_shorter_one_keeps_its_positions_and_gets_the_second_strategys_last_ones(llama, saved):
    context = new_context(llama, 12)
    grown, second = (
        s.tensors(context) for s in (FromCartridge(path=saved, grow=RandomVectors()), RandomVectors())
    )
    for mine, old, new in zip(all_tensors(grown), all_tensors_of(saved), all_tensors(second), strict=True):
        assert torch.equal(mine[:, :8], old) and torch.equal(mine[:, 8:], new[:, 8:])


def test_first_tokens_grown_by_first_tokens_is_a_longer_prefill(llama, saved):
    """So the new keys are rotated for the positions at which they stand."""
    grown = FromCartridge(path=saved, grow=FirstTokens()).tensors(new_context(llama, 12))
    close(all_tensors(grown), naive_prefill(llama, (OPENING + CORPUS)[:12]))


def test_biases_are_kept_and_the_new_positions_have_none(llama, tmp_path):
    keys, values = prefill(llama, CORPUS[:6])
    biases = [torch.randn(key.shape[:2]) for key in keys]
    Cartridge(keys, values, biases).save_pretrained(tmp_path)
    grown = FromCartridge(path=str(tmp_path), grow=FirstTokens()).tensors(new_context(llama, 9))
    for mine, old in zip(grown.biases, biases, strict=True):
        assert torch.equal(mine[:, :6], old) and torch.equal(mine[:, 6:], torch.zeros(2, 3))
    cut = FromCartridge(path=str(tmp_path)).tensors(new_context(llama, 4))
    assert torch.equal(cut.biases[0], biases[0][:, :4])


def test_too_short_a_one_and_another_models_are_refused(llama, saved, tmp_path):
    message = r"init.path=.* holds 8 positions, fewer than num_tokens=9; .* at most 8, or init.grow"
    with pytest.raises(ValueError, match=message):
        FromCartridge(path=saved).tensors(new_context(llama, 9))
    Cartridge(*prefill(tiny_model("qwen3"), CORPUS)).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="head_dim: 16 against 8"):
        FromCartridge(path=str(tmp_path / "other"), grow=FirstTokens()).tensors(new_context(llama))


def test_it_can_be_cut_and_grown_on_every_architecture(model, tmp_path):
    Cartridge(*prefill(model, CORPUS[:6])).save_pretrained(tmp_path)
    for num_tokens in (4, 10):
        tensors = FromCartridge(path=str(tmp_path), grow=Text(text="w5 w6")).tensors(
            new_context(model, num_tokens)
        )
        assert [x.shape for x in all_tensors(tensors)] == [
            x.shape for x in naive_prefill(model, CORPUS[:num_tokens])
        ]
        assert same(tensors.positions(0, 4), FromCartridge(path=str(tmp_path)).tensors(new_context(model, 4)))


def test_the_provenance_names_the_place_and_the_second_strategy():
    assert FromCartridge(path="there").describe() == "FromCartridge(there)"
    assert FromCartridge(path="there", grow=FirstTokens()).describe() == "FromCartridge(there, FirstTokens)"
