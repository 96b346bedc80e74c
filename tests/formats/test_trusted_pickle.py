"""A pickle is read when asked for, and then cannot do anything but hold tensors."""

from __future__ import annotations

import os
import pathlib
import pickle

import pytest
import torch
from torch import nn

from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.formats.hazyresearch import HazyResearchFormat
from lit_cartridges.formats.trusted_pickle import load_pickle
from tests.formats.cartridges import drawn


class Intruder:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def written(folder, how, content):
    file = folder / "cache-step0.pt"
    if how == "zip":
        torch.save(content, file)
    elif how == "old torch":
        torch.save(content, file, _use_new_zipfile_serialization=False)
    else:
        file.write_bytes(pickle.dumps(content, protocol=int(how.removeprefix("pickle "))))
    return file


WAYS = ["zip", "old torch", "pickle 0", "pickle 2", "pickle 4", "pickle 5"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("where", ["alone", "beside tensors"])
def test_a_file_that_would_run_something_is_refused_and_runs_nothing(how, where, tmp_path):
    created = tmp_path / "created"
    intruder = Intruder(created)
    content = intruder if where == "alone" else {"trainable_keys": nn.ParameterList(), "x": intruder}
    file = written(tmp_path, how, content)
    with pytest.raises(CartridgeFileError, match=r"is refused: .* asks for .*(posix|nt)\.mkdir"):
        load_pickle(file, trust_pickle=True)
    assert not created.exists()


def test_the_file_of_that_test_is_dangerous(tmp_path):
    """Without the care taken above, it does what it is made for."""
    created = tmp_path / "created"
    torch.load(written(tmp_path, "zip", {"x": Intruder(created)}), weights_only=False)
    assert created.is_dir()


@pytest.mark.parametrize("how", WAYS)
def test_a_harmless_class_is_refused_by_its_name(how, tmp_path):
    file = written(tmp_path, how, {"a": pathlib.PurePosixPath("a")})
    with pytest.raises(CartridgeFileError, match=r"asks for .*pathlib.PurePosixPath"):
        load_pickle(file, trust_pickle=True)


@pytest.mark.parametrize("content", [drawn(), Intruder("nowhere")])
def test_nothing_is_opened_unasked(content, tmp_path, monkeypatch):
    file = written(tmp_path, "zip", content)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(CartridgeFileError, match="is a pickle, .* give --trust_pickle"):
        load_pickle(file, trust_pickle=False)


@pytest.mark.parametrize("bytes_left", [0, 3, 200, -1])
@pytest.mark.parametrize("how", ["zip", "old torch"])
def test_a_truncated_file_is_named(how, bytes_left, tmp_path):
    lists = nn.ParameterList([nn.Parameter(torch.randn(1, 2, 3, 4))])
    file = written(tmp_path, how, {"trainable_keys": lists})
    file.write_bytes(file.read_bytes()[:bytes_left])
    with pytest.raises(CartridgeFileError, match="is truncated, or no file of torch.save"):
        load_pickle(file, trust_pickle=True)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(CartridgeFileError, match="nothing.pt is not there"):
        load_pickle(tmp_path / "nothing.pt", trust_pickle=True)
    (tmp_path / "text.pt").write_text("no pickle at all")
    with pytest.raises(CartridgeFileError, match="truncated, or no file of torch.save"):
        load_pickle(tmp_path / "text.pt", trust_pickle=True)


def test_the_permission_ends_with_the_reading(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    HazyResearchFormat().write(drawn(), tmp_path / "a.pt")
    load_pickle(tmp_path / "a.pt", trust_pickle=True)
    assert set(torch.serialization.get_safe_globals()) == before
