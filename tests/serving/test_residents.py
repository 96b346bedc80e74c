"""Cartridges in memory: as their files hold them, composed as `Cartridge.compose` does, and no more than their bytes allow."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cartridge_files import TENSORS
from lit_cartridges.serving.metrics import Metrics
from lit_cartridges.serving.refusals import Refusal
from lit_cartridges.serving.residents import Residents, unreadable_by
from lit_cartridges.serving.shelf import Shelf
from tests.formats.cartridges import with_biases
from tests.serving.shelves import fill, of_text, pocket


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "runs", a=1, b=2, c=3)


def residents(folder, *, max_bytes: int = 10**9) -> Residents:
    model = pocket()[0]
    shelf = Shelf(folder, refuses=unreadable_by(model))
    return Residents(shelf, model, max_bytes=max_bytes, metrics=Metrics())


def same(prefix, cartridge) -> bool:
    pairs = zip(prefix, cartridge.tensors(), strict=True)
    return all(torch.equal(x, y) for mine, theirs in pairs for x, y in zip(mine, theirs, strict=True))


def test_they_are_what_the_files_hold(folder):
    held = residents(folder)
    assert same(held.take(["a"]).prefix, of_text(1))
    both = held.take(["b", "a"])
    assert same(both.prefix, Cartridge.compose([of_text(2), of_text(1)]))
    assert both.num_tokens == of_text(2).num_tokens + of_text(1).num_tokens - 1


def test_a_bias_per_key_is_held_beside_them(folder):
    biased = with_biases(of_text(1))
    biased.save_pretrained(folder / "biased")
    keys, values, biases = residents(folder).take(["biased"]).prefix
    assert same((keys, values), biased) and all(map(torch.equal, biases, biased.biases()))


def test_a_file_is_read_once_while_it_stays_the_same(folder):
    held = residents(folder)
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda _: held.take(["a"]), range(20)))
    assert len(set(map(id, taken))) == 1 and taken[0].users == 20
    assert held.metrics.loads._value.get() == 1 and held.metrics.hits._value.get() == 19
    of_text(3).save_pretrained(folder / "a" / "cartridge")
    assert same(held.take(["a"]).prefix, of_text(3)) and same(taken[0].prefix, of_text(1))


def test_what_was_used_last_stays_and_what_is_in_use_is_never_dropped(folder):
    sizes = [of_text(seed).nbytes for seed in (1, 2, 3)]
    held = residents(folder, max_bytes=sizes[1] + sizes[2])
    a = held.take(["a"])
    held.give_back(a)
    b = held.take(["b"])
    held.give_back(held.take(["a"]))
    held.give_back(b)
    c = held.take(["c"])  # a was used after b, but there is no room for both
    assert held.nbytes <= held.max_bytes and held.take(["c"]) is c
    held.take(["b"])
    with pytest.raises(Refusal, match="ask later") as told:
        held.take(["a"])
    assert told.value.status == 503
    held.give_back(c)
    held.give_back(c)
    assert same(held.take(["a"]).prefix, of_text(1)) and held.nbytes <= held.max_bytes


def test_one_that_is_too_large_is_refused(folder):
    with pytest.raises(Refusal, match="max_cartridge_gb") as told:
        residents(folder, max_bytes=1000).take(["a"])
    assert told.value.status == 400


def test_a_byte_changed_in_the_tensors_is_refused(folder):
    file = folder / "a" / "cartridge" / TENSORS
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(Refusal, match="tensors_sha256 differs") as told:
        residents(folder).take(["a"])
    assert told.value.status == 400 and str(folder) not in told.value.message


def test_a_file_that_is_replaced_while_it_is_read_is_read_anew(folder, monkeypatch):
    held, read = residents(folder), Cartridge.from_pretrained.__func__

    def replacing(cls, path):
        cartridge = read(cls, path)
        monkeypatch.undo()
        of_text(3).save_pretrained(folder / "a" / "cartridge")
        return cartridge

    monkeypatch.setattr(Cartridge, "from_pretrained", classmethod(replacing))
    assert same(held.take(["a"]).prefix, of_text(3))
