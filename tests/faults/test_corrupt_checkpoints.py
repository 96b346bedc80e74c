"""A checkpoint that cannot be read is seen to be one, and the one before it taken; without any, nothing is overwritten."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_cartridges.runs.checkpoint_files import UNREADABLE, problem
from tests.faults.command import Command, arguments, options
from tests.faults.figures import Figures
from tests.faults.run_files import check_same_end


def truncated(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(1, len(content))]


def emptied(content: bytes, draw: random.Random) -> bytes:
    return b""


def zeroed(content: bytes, draw: random.Random) -> bytes:
    return bytes(len(content))


def garbage(content: bytes, draw: random.Random) -> bytes:
    return draw.randbytes(len(content))


def half_overwritten(content: bytes, draw: random.Random) -> bytes:
    first = draw.randrange(len(content) // 2)
    return content[:first] + draw.randbytes(len(content) // 2) + content[first + len(content) // 2 :]


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    truncated,
    half_overwritten,
    emptied,
    zeroed,
    garbage,
)


@pytest.fixture(scope="module")
def half_way(inputs, tmp_path_factory):
    """A run that was stopped in the middle of its training."""
    folder = tmp_path_factory.mktemp("half-way")
    fit = Command(arguments("fit", options(folder / "run", *inputs)), folder / "log.txt", forked=True)
    assert fit.until((folder / "run" / "checkpoints" / "previous.ckpt").exists), fit.told()
    fit.send(signal.SIGTERM)
    assert fit.wait() == 143, fit.told()
    return folder / "run"


@pytest.fixture
def stopped(half_way, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(half_way, tmp_path / "stopped"))


def damage(path: Path, how: Callable[[bytes, random.Random], bytes], draw: random.Random) -> None:
    path.write_bytes(how(path.read_bytes(), draw))


@pytest.mark.faults
def test_the_one_before_it_is_gone_on_from(start, stopped, undisturbed, tmp_path, long):
    draw, figures = random.Random(0), Figures("a last checkpoint that cannot be read", long=long)
    for number, how in enumerate(DAMAGES * 5 if long else DAMAGES[:2]):
        folder = tmp_path / f"damaged-{number}"
        shutil.copytree(stopped, folder)
        damage(folder / "checkpoints" / "last.ckpt", how, draw)
        fit = start(folder, forked=not long or number >= len(DAMAGES))
        assert fit.wait() == 0, fit.told()
        assert f"{folder / 'checkpoints' / 'last.ckpt'} cannot be read" in fit.told()
        assert f"going on from {folder / 'checkpoints' / 'previous.ckpt'}" in fit.told()
        (folder / "checkpoints" / UNREADABLE).unlink()
        check_same_end(folder, undisturbed)
        figures.moments[how.__name__.replace("_", " ")] += 1
        figures.outcomes["said so, went on from the one before, ended on the same bits"] += 1
    figures.save("5-last-checkpoint")


@pytest.mark.faults
def test_without_any_nothing_is_overwritten(start, stopped, undisturbed, tmp_path, long):
    draw, figures = random.Random(1), Figures("no checkpoint that can be read", long=long)
    for how in DAMAGES if long else DAMAGES[:1]:
        folder = tmp_path / how.__name__
        shutil.copytree(stopped, folder)
        checkpoints = folder / "checkpoints"
        for path in checkpoints.iterdir():
            damage(path, how, draw)
        before = {path.name: path.read_bytes() for path in checkpoints.iterdir()}
        fit = start(folder)
        assert fit.wait() == 2
        assert "no checkpoint can be gone on from" in fit.told() and "--resume never" in fit.told()
        assert all(str(path) in fit.told() for path in checkpoints.iterdir())
        assert {path.name: path.read_bytes() for path in checkpoints.iterdir()} == before
        figures.outcomes["refused, nothing overwritten"] += 1
        fit = start(folder, settings={"resume": "never"})
        assert fit.wait() == 0, fit.told()
        check_same_end(folder, undisturbed)
        figures.outcomes["ended on the same bits by the option that the message names"] += 1
        figures.moments[how.__name__.replace("_", " ")] += 1
    figures.save("6-no-checkpoint")


@pytest.mark.faults
def test_a_damaged_part_of_the_recording_is_made_again(start, stopped, undisturbed):
    draw = random.Random(2)
    for path, how in zip(sorted((stopped / "recording").glob("*.parquet")), DAMAGES, strict=False):
        damage(path, how, draw)
    # The last checkpoint is beyond them, so that only a run from the beginning reads them again.
    fit = start(stopped, settings={"resume": "never"})
    assert fit.wait() == 0, fit.told()
    check_same_end(stopped, undisturbed)


@pytest.mark.faults
def test_every_byte_of_a_tensor_counts(stopped):
    last = stopped / "checkpoints" / "last.ckpt"
    content, draw = last.read_bytes(), random.Random(3)
    seen = 0
    for _ in range(300):
        place = draw.randrange(len(content))
        last.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        seen += problem(last) is not None
    # torch aligns tensors with padding that nobody reads, more than half of a checkpoint as small as this one
    assert seen > 60
    last.write_bytes(content)
    assert problem(last) is None
    assert problem(stopped / "config.yaml") is not None
