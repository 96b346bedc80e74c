"""The tier's marker, the real text, and one cartridge that all tests look at."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.distributed.conftest import (
    figure,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_terminal_summary,
)

# The tiers are declared there, and pytest reads that file only where it looks for tests.
__all__ = ["figure", "pytest_collection_modifyitems", "pytest_configure", "pytest_terminal_summary"]

ROOT = Path(__file__).parent.parent.parent
RECIPE = ROOT / "recipes" / "smollm2_text.yaml"
STEPS, STOP_AFTER = 200, 80
SPENT: dict[str, tuple[float, float]] = {}
"""Command, by its log -> wall-clock seconds and seconds of all cores."""


@pytest.fixture(scope="session")
def articles() -> Path:
    """XQuAD's English file, which is not the project's to give away."""
    path = os.environ.get("XQUAD", "")
    if not path or not Path(path).is_file():
        pytest.skip(
            f"XQUAD={path!r} names no file; set it to xquad.en.json of github.com/google-deepmind/xquad"
        )
    return Path(path).resolve()


@pytest.fixture(scope="session")
def corpus(articles: Path) -> list[str]:
    """The options of one article as a corpus."""
    return ["--data.corpus=SquadCorpus", f"--data.corpus.path={articles}", "--data.corpus.articles=[Warsaw]"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


class Run:
    """``lit-cartridges`` in a process of its own; what it prints is kept in ``log``, and what it cost in `SPENT`."""

    def __init__(self, log: Path, *args: str, said: str = "") -> None:
        self.log, self.start = log, (time.perf_counter(), _children_cpu_s())
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lit_cartridges.cli", *args],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=log.parent,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(said)
        self.process.stdin.close()

    def told(self) -> str:
        return self.log.read_text(errors="replace")

    def done(self, status: int = 0) -> str:
        """What it printed, once it has ended with this status."""
        found = self._wait()
        assert found == status, f"status {found}\n{self.told()[-4000:]}"
        return self.told()

    def stop_at(self, sign: Path) -> int:
        """SIGTERM as soon as there is this file; the status."""
        while not sign.exists() and self.process.poll() is None:
            time.sleep(0.2)
        self.process.send_signal(signal.SIGTERM)
        return self._wait()

    def _wait(self) -> int:
        status = self.process.wait()
        wall, cpu = self.start
        SPENT[self.log.stem] = (time.perf_counter() - wall, _children_cpu_s() - cpu)
        return status


def _children_cpu_s() -> float:
    """Of all processes that have ended; one runs at a time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def fit_arguments(corpus: Sequence[str], place: Path) -> list[str]:
    """Two hundred steps of a small cartridge, on few short conversations: one round of them is enough, and costs half of two."""
    settings = {
        "trainer.max_steps": STEPS,
        "trainer.default_root_dir": place,
        "checkpoint.every_n_steps": STOP_AFTER,
        "model.num_tokens": 64,
        "data.source.conversations_per_group": 8,
        "data.groups_per_round": 4,
        "data.uses": 12,
        "data.tokens_per_batch": 128,
    }
    return ["fit", f"--config={RECIPE}", *corpus, *(f"--{key}={value}" for key, value in settings.items())]


@pytest.fixture(scope="session")
def stopped(corpus: list[str], folder: Path) -> tuple[int, str]:
    """Status and words of a training that was told to stop on its way."""
    run = Run(folder / "first.log", *fit_arguments(corpus, folder / "run"))
    return run.stop_at(folder / "run" / "checkpoints" / "last.ckpt"), run.told()


@pytest.fixture(scope="session")
def trained(stopped: tuple[int, str], corpus: list[str], folder: Path) -> tuple[Path, str]:
    """The cartridge of the same command, given again, and what that printed."""
    told = Run(folder / "second.log", *fit_arguments(corpus, folder / "run")).done()
    return folder / "run" / "cartridge", told
