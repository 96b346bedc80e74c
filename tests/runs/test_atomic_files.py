"""Files that are there whole or not at all, and what remains of those that were not finished."""

from __future__ import annotations

import errno
import os

import pytest

from lit_cartridges.conversations.recording import Recording
from lit_cartridges.runs import atomic_files
from lit_cartridges.runs.atomic_files import OutOfSpaceError, sweep, write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_replaced_is_kept_where_that_is_asked(tmp_path):
    last, previous = tmp_path / "last", tmp_path / "previous"
    for content in (b"1", b"2", b"3"):
        write_atomically(last, content, previous=previous)
    assert (previous.read_bytes(), last.read_bytes()) == (b"2", b"3")
    assert names(tmp_path) == ["last", "previous"]


def test_a_file_system_without_second_names_keeps_it_too(tmp_path, monkeypatch):
    def refused(*args):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    test_what_is_replaced_is_kept_where_that_is_asked(tmp_path)


def test_two_names_of_one_file_leave_nothing_behind(tmp_path):
    """As after a run that died between the two renamings."""
    last, previous = tmp_path / "last", tmp_path / "previous"
    last.write_bytes(b"1")
    os.link(last, previous)
    write_atomically(last, b"2", previous=previous)
    assert (previous.read_bytes(), last.read_bytes()) == (b"1", b"2")
    assert names(tmp_path) == ["last", "previous"]


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "your quota")]
)
def test_a_full_disk_is_told_in_words_and_leaves_the_old_file(tmp_path, monkeypatch, number, told):
    write_atomically(tmp_path / "file", b"old")

    def full(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OutOfSpaceError, match=f"{told}.* in '{tmp_path}'.*make room and start the same command"
    ):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_a_living_writer_whose_file_is_swept_away_writes_it_again(tmp_path, monkeypatch):
    swept = []

    def sweep_once(number):
        if not swept:
            swept.append(sweep(tmp_path))

    monkeypatch.setattr(os, "fsync", sweep_once)
    write_atomically(tmp_path / "file", b"content")
    assert swept == [1] and (tmp_path / "file").read_bytes() == b"content"


def test_a_folder_that_is_gone_ends_the_attempt(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "gone" / "file", b"")


def test_leftovers_are_swept_and_never_counted(tmp_path):
    leftovers = [".part-00000003.parquet.4711.tmp", ".settings.json.4711.tmp", ".last.ckpt.1.tmp"]
    others = [".hidden", "a.tmp", ".x.tmp", "part-00000001.parquet.tmp"]
    for name in leftovers + others:
        (tmp_path / name).write_bytes(b"half")
    assert Recording(tmp_path).groups() == []
    Recording(tmp_path, settings={"seed": 0})
    assert names(tmp_path) == sorted(others)
    assert sweep(tmp_path / "missing") == 0


def test_the_name_of_a_temporary_file_is_one_that_is_swept(tmp_path):
    atomic_files._beside(tmp_path / "file").touch()
    assert sweep(tmp_path) == 1
