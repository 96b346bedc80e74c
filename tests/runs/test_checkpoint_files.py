"""Which checkpoint a run goes on from, and what it says."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.runs.checkpoint_files import (
    BEST,
    LAST,
    PREVIOUS,
    UNREADABLE,
    AtomicCheckpointIO,
    CheckpointFileError,
    problem,
    resume_path,
    set_aside,
)


def save(folder, name, step, *, keeps_previous=True):
    files = AtomicCheckpointIO()
    files.keeps_previous = keeps_previous
    content = {"state_dict": {"x": torch.arange(1000.0)}, "global_step": step, "loops": {}}
    files.save_checkpoint(content, folder / name)


def step(path):
    return torch.load(path, weights_only=True)["global_step"]


def resumed(folder):
    told: list[str] = []
    path = resume_path(folder, tell=told.append)
    return (path and path.name), told


def test_the_last_one_and_the_one_before_it_are_kept(tmp_path):
    for number in (1, 2, 3):
        save(tmp_path, LAST, number)
        save(tmp_path, BEST, number)
    assert (step(tmp_path / PREVIOUS), step(tmp_path / LAST)) == (2, 3)
    assert resumed(tmp_path) == (LAST, [])
    save(tmp_path, LAST, 4, keeps_previous=False)
    assert (step(tmp_path / PREVIOUS), step(tmp_path / LAST)) == (2, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEST, LAST, PREVIOUS]


def test_they_are_tried_in_turn(tmp_path):
    assert resumed(tmp_path) == (None, []) == resumed(tmp_path / "missing")
    for number in (1, 2):
        save(tmp_path, LAST, number)
        save(tmp_path, BEST, number)
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:-100])
    name, (told,) = resumed(tmp_path)
    assert name == PREVIOUS and f"{tmp_path / LAST} cannot be read" in told
    assert f"going on from {tmp_path / PREVIOUS}" in told
    set_aside(tmp_path)
    assert (tmp_path / UNREADABLE).exists() and resumed(tmp_path)[0] == PREVIOUS
    (tmp_path / PREVIOUS).write_bytes(b"")
    name, (told,) = resumed(tmp_path)
    assert (
        name == BEST
        and "it is missing" in told
        and f"{tmp_path / PREVIOUS} cannot be read (it is empty)" in told
    )
    (tmp_path / BEST).unlink()
    with pytest.raises(CheckpointFileError, match="no checkpoint can be gone on from.*--resume never"):
        resumed(tmp_path)


def test_one_damaged_byte_is_seen(tmp_path):
    save(tmp_path, LAST, 1)
    content = (tmp_path / LAST).read_bytes()
    middle = content.index(torch.arange(1000.0).numpy().tobytes()) + 2000
    (tmp_path / LAST).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert "is damaged" in str(problem(tmp_path / LAST))
    torch.load(tmp_path / LAST, weights_only=True)  # which torch would have taken


def test_a_file_of_something_else_is_no_checkpoint(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / LAST)
    assert problem(tmp_path / LAST) == "it has no global_step, loops"
