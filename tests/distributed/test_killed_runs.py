"""A run that SIGKILL ends at any moment, and that is started again until it is done, ends on the bits of one left alone.

Each attempt is a process of its own, which kills itself at a given call of a given function: in the middle of
generating, of the backward pass, half-way through writing a checkpoint, a recording's part or the cartridge, and just
before and after their renaming into place.
"""

from __future__ import annotations

import os
import random
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.local import LocalFileOpener

from lit_cartridges import Cartridge
from lit_cartridges.callbacks import CartridgeCheckpoint
from lit_cartridges.losses import _ChunkedLoss
from lit_cartridges.self_study.recording import Recording
from lit_cartridges.teachers import local
from tests.tiny_run import new_data, new_module, new_trainer, same_tensors, save_corpus, save_model

STEPS = 6
# (object, function, kill after the call): the calls are counted from the attempt's start.
MOMENTS: dict[str, tuple[Any, str, bool]] = {
    "generating": (local, "generate_from_prefix", False),
    "backward": (_ChunkedLoss, "backward", False),
    "checkpoint half written": (LocalFileOpener, "write", False),
    "checkpoint not renamed": (LocalFileOpener, "commit", False),
    "checkpoint renamed": (LocalFileOpener, "commit", True),
    "file not renamed": (Path, "replace", False),
    "file renamed": (Path, "replace", True),
}


def train(folder: Path, model: str, corpus: str) -> None:
    """To the end, from the last checkpoint where there is one."""
    last = folder / "checkpoints" / "last.ckpt"
    trainer = new_trainer(
        folder, CartridgeCheckpoint(every_n_steps=1), enable_checkpointing=True, max_steps=STEPS
    )
    trainer.fit(
        new_module(model),
        new_data(corpus, conversations_per_group=3, groups_per_round=1),
        ckpt_path=last if last.exists() else None,
        weights_only=True,
    )


def attempt(folder: Path, model: str, corpus: str, moment: str | None, call: int = 0) -> int:
    """Train in a process of its own, which kills itself at the ``call``-th (from 0) call of ``moment``'s function.

    Returns:
        The signal that ended it; 0 when it came to the end.
    """
    process = os.fork()
    if process == 0:
        try:
            if moment is not None:
                arm(*MOMENTS[moment], call)
            train(folder, model, corpus)
        except BaseException:
            (folder.parent / "error.txt").write_text(traceback.format_exc())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL), (
        folder.parent / "error.txt"
    ).read_text()
    return -os.waitstatus_to_exitcode(status)


def arm(owner: Any, name: str, after: bool, call: int) -> None:
    """Only in a process that is about to end."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= call:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        elif name == "write":
            file, content = args
            original(file, content[: len(content) // 2])
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, staticmethod(deadly) if owner is _ChunkedLoss else deadly)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    return save_model(folder / "model"), save_corpus(folder / "corpus.txt")


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert attempt(folder, *settings, None) == 0
    return folder


def check_same_end(folder: Path, undisturbed: Path) -> None:
    ours, theirs = (Cartridge.from_pretrained(f / "cartridge") for f in (folder, undisturbed))
    assert same_tensors(dict(ours.state_dict()), dict(theirs.state_dict()))
    recordings = Recording(folder / "recording"), Recording(undisturbed / "recording")
    assert recordings[0].groups() == recordings[1].groups()
    for group in recordings[0].groups():
        mine, other = (recording.read_group(group) for recording in recordings)
        assert [c.metadata for c in mine] == [c.metadata for c in other]
        assert [[m.content for m in c.messages] for c in mine] == [
            [m.content for m in c.messages] for c in other
        ]
    for name in ("last", "best"):
        torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.mark.faults
def test_a_run_killed_once_at_each_moment(settings, undisturbed, tmp_path):
    folder = tmp_path / "run"
    killed = [attempt(folder, *settings, moment, call=1) for moment in MOMENTS]
    assert killed.count(signal.SIGKILL) >= 5  # near the end an attempt may have too little left to do
    attempt(folder, *settings, None)
    check_same_end(folder, undisturbed)


@pytest.mark.faults
@pytest.mark.slow
def test_runs_killed_at_fifty_random_moments(settings, undisturbed, tmp_path):
    draw, kills, number = random.Random(0), 0, 0
    while kills < 50:
        folder, number = tmp_path / str(number) / "run", number + 1
        folder.parent.mkdir()
        while attempt(folder, *settings, draw.choice(list(MOMENTS)), draw.randrange(6)):
            kills += 1
        check_same_end(folder, undisturbed)
    assert number >= 2
