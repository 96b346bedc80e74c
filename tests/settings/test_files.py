"""Paths of settings: what is read is there, and what will be written is tried without a trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lit_cartridges.settings import Existing, Writable


def tree(folder: Path) -> set[str]:
    return {f"{path} {path.stat().st_size}" for path in folder.rglob("*")}


@pytest.mark.parametrize("place", ["new.json", "a/b/c/new.json", "old.json"])
def test_a_file_that_can_be_written_is_tried_without_a_trace(tmp_path, place):
    (tmp_path / "old.json").write_text("kept")
    before = tree(tmp_path)
    assert Writable("file", ".json").problem(tmp_path / place) is None
    assert tree(tmp_path) == before


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    told = Writable("file", ".json").problem
    assert told(tmp_path) == "is a folder; give a file that ends in .json"
    assert told(f"{tmp_path}/new/") == "is a folder; give a file that ends in .json"
    assert told(tmp_path / "figures.txt") == "must end in .json"
    assert told(tmp_path / "file" / "x.json").startswith("cannot be written")
    assert told("/proc/x.json").startswith("cannot be written")
    assert told("a\0.json").startswith("cannot be written")
    assert told(tmp_path / ("x" * 300 + ".json")) == "cannot be written (file name too long)"
    os.mkfifo(tmp_path / "pipe.json")
    assert told(tmp_path / "pipe.json") == "is no regular file"
    assert Writable("folder").problem(tmp_path / "file") == "is a file; give a folder"
    assert Writable("folder").problem("/proc/x").startswith("cannot be written")


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "file").write_text("x")
    assert Existing().problem(tmp_path) is None
    assert Existing("file").problem(tmp_path / "file") is None
    assert Existing().problem(tmp_path / "nowhere") == "there is no such file or folder"
    assert Existing("file").problem(tmp_path / "nowhere") == "there is no such file"
    assert Existing("file").problem(tmp_path) == "is a folder; give a file"
    assert Existing("folder").problem(tmp_path / "file") == "is a file; give a folder"
    assert Existing("folder", "config.json").problem(tmp_path) == "the folder holds no config.json"
    os.mkfifo(tmp_path / "pipe")
    assert Existing("file").problem(tmp_path / "pipe") == "is no regular file"
