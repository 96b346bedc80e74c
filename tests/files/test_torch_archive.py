"""Zip archives of torch, before torch reads them; and the checkpoints that are such archives."""

from __future__ import annotations

import zipfile

import pytest
import torch

from lit_cartridges.files.torch_archive import archive_problem
from lit_cartridges.runs.checkpoint_files import problem

CHECKPOINT = {"state_dict": {"a": torch.arange(64.0)}, "global_step": 1, "loops": {}}


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(CHECKPOINT, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def rebuilt(path, how=zipfile.ZIP_STORED, **changed):
    """The archive with right checksums around other parts."""
    with zipfile.ZipFile(path) as source:
        parts = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", how) as target:
        for name, part in parts.items():
            target.writestr(name, changed.get(name.rpartition("/")[2], part))
    return path


def test_a_whole_one_has_no_problem(checkpoint):
    assert archive_problem(checkpoint) is None and problem(checkpoint) is None
    assert problem(rebuilt(checkpoint)) is None


def test_every_flipped_bit_of_the_tensors_is_seen(checkpoint):
    whole = checkpoint.read_bytes()
    start = whole.index(CHECKPOINT["state_dict"]["a"].numpy().tobytes())
    for place in range(start, start + 256, 5):
        changed = bytearray(whole)
        changed[place] ^= 1
        checkpoint.write_bytes(changed)
        assert problem(checkpoint) == "its part 'last/data/0' is damaged"


def test_a_packed_one_is_refused_unread(checkpoint):
    assert (
        problem(rebuilt(checkpoint, zipfile.ZIP_DEFLATED)) == "its parts are packed, which torch never does"
    )


@pytest.mark.parametrize("size", [0, 255, 257])
def test_numbers_that_do_not_fill_their_tensor_are_seen_before_a_run_goes_on(size, checkpoint):
    """torch asks for their size when it reads them, and not when it maps the file."""
    assert "does not match expected size" in (problem(rebuilt(checkpoint, **{"0": bytes(size)})) or "")


@pytest.mark.parametrize(
    "content", [b"x", b"PK\x03\x04", [1], {"state_dict": {}}, {"state_dict": {}, "loops": {}}, 3]
)
def test_what_is_no_checkpoint_is_told_in_one_line(content, checkpoint):
    if isinstance(content, bytes):
        checkpoint.write_bytes(content)
    else:
        torch.save(content, checkpoint)
    told = problem(checkpoint)
    assert told and "\n" not in told
