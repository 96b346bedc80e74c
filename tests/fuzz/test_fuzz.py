"""A short run of the fuzzer, and that it sees each way in which a reader can be wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.fuzz import reader
from tests.fuzz.kinds import KINDS, Kind
from tests.fuzz.mutations import spoil_bytes
from tests.fuzz.run import fuzz

FILES = 210


@pytest.mark.filterwarnings("ignore:hazyresearch files hold no:UserWarning")
def test_no_spoilt_file_is_read_as_another_or_ends_in_anything_but_a_line_that_names_it(tmp_path):
    tally = fuzz(tmp_path, range(FILES), seed=1)
    assert not tally.wrong, "\n".join(f"--seed 1 --only {n} ({k}): {o}" for n, k, o in tally.wrong)
    assert set(tally.counts) == {kind.name for kind in KINDS}
    total = sum((counts for counts in tally.counts.values()), start=type(tally.counts[KINDS[0].name])())
    assert total.total() == FILES and total["refused"] > FILES / 2 and total["equal"] and total["differs"]


def of_one_line(read, *, forged=False):
    """A kind of one text file that ``read`` reads; only whole it holds "whole"."""

    def make(folder: Path) -> Path:
        (folder / "a.txt").write_text("whole")
        return folder / "a.txt"

    ways = {".txt": (spoil_bytes,)}
    return Kind("text", make, read, ValueError, **({"forged": ways} if forged else {"spoilt": ways}))


def whole_or(otherwise):
    """Reads the whole file as it is, and does ``otherwise(path)`` with another."""
    return lambda path: path.read_bytes().decode() if path.read_bytes() == b"whole" else otherwise(path)


def raises(error):
    def fail(path):
        raise error

    return fail


def refuse(text):
    def fail(path):
        raise ValueError(text.replace("PATH", str(path)))

    return fail


def hold_memory(path):
    return str(len(b"x" * (reader.MOST_BYTES + 2**26)))


@pytest.mark.parametrize(
    ("otherwise", "how"),
    [
        (lambda path: "another", "silent"),
        (refuse("PATH is damaged"), "refused"),
        (refuse("a file is damaged"), "unclear"),
        (refuse("PATH is\ndamaged"), "unclear"),
        (raises(KeyError("x")), "crash"),
        (raises(MemoryError()), "crash"),
        (raises(RecursionError()), "crash"),
        (lambda path: os._exit(3), "crash"),
        (lambda path: time.sleep(60), "hang"),
        (hold_memory, "memory"),
    ],
)
def test_each_wrong_end_is_seen(otherwise, how, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MOST_S", 1 if how == "hang" else 60)
    tally = fuzz(tmp_path, range(1), kinds=[of_one_line(whole_or(otherwise))])
    assert tally.counts["text"] == {how: 1}
    assert [outcome.how for _, _, outcome in tally.wrong] == ([] if how == "refused" else [how])


def test_other_content_is_right_where_no_checksum_can_be(tmp_path):
    kind = of_one_line(whole_or(lambda path: "another"), forged=True)
    assert fuzz(tmp_path, range(1), kinds=[kind]).counts["text"] == {"differs": 1}


def test_a_seed_and_a_number_make_a_file_again(tmp_path):
    def spoilt(seed, numbers, folder):
        folder.mkdir()
        fuzz(folder, numbers, seed=seed, kinds=[of_one_line(whole_or(lambda path: "another"))])
        return (folder / "spoilt" / "a.txt").read_bytes()

    alone, among = spoilt(0, [5], tmp_path / "a"), spoilt(0, range(6), tmp_path / "b")
    assert alone == among != spoilt(1, [5], tmp_path / "c")
