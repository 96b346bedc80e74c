"""The bar of a run: steps, the making of conversations, and the time that both will take."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader

from lit_cartridges.callbacks import StepProgress
from lit_cartridges.data.stream import RoundNews
from lit_cartridges.models import load_model
from lit_cartridges.teachers import LocalTeacher
from lit_cartridges.teachers.teacher import Teacher
from tests.tiny_run import (
    fit,
    from_recording,
    new_data,
    new_module,
    new_trainer,
    save_corpus,
    save_model,
    save_recording,
)


class Screen(io.StringIO):
    """What is written to standard error, as to a terminal or to a file."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def shown(self) -> list[str]:
        """Each time that the bar was written."""
        return [line for line in re.split(r"[\r\n]+", self.getvalue()) if " steps [" in line]


class Elsewhere(Teacher):
    """A teacher that is not in process as far as the stream knows, so that a thread asks it."""

    def __init__(self, model: str) -> None:
        self.local = LocalTeacher()
        self.local.bind(load_model(model), None)

    def complete(self, **options: Any) -> Any:
        self.local.stop_token_ids = self.stop_token_ids
        return self.local.complete(**options)


class Eager(StepProgress):
    """Shows every change, however soon after another."""

    def _open(self, *args: Any) -> None:
        super()._open(*args)
        self._bar.mininterval = 0


@pytest.fixture
def screen(monkeypatch):
    def of(*, terminal: bool = True) -> Screen:
        made = Screen(terminal=terminal)
        monkeypatch.setattr(sys, "stderr", made)
        monkeypatch.setenv("COLUMNS", "200")
        return made

    return of


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def run(tmp_path, model, progress: StepProgress, *, steps: int = 6, **options: Any):
    recorded = options.pop("recorded", None)
    corpus = save_corpus(tmp_path / "corpus.txt")
    data = from_recording(corpus, recorded) if recorded else new_data(corpus, **options)
    trainer, _ = fit(
        tmp_path,
        new_module(model),
        data,
        progress,
        max_steps=steps,
        enable_progress_bar=True,
        log_every_n_steps=1,
    )
    return trainer, data


def test_it_says_that_conversations_are_made_how_fast_and_how_long(tmp_path, model, screen):
    shown = screen()
    run(tmp_path, model, Eager())
    lines = shown.shown
    making = [line for line in lines if line.startswith("making conversations:")]
    assert lines[0] == making[0] and "0/6 steps" in making[0]  # before the first step
    assert re.search(r"\d+ of about 8, [\d.]+/s", making[-1])
    assert any(re.search(r"about \d+ s (left|until training goes on)", line) for line in making)
    assert lines[-1].startswith("cartridge: 100%") and "6/6 steps" in lines[-1]
    assert "steps/s" in lines[-1] and "loss" in lines[-1]
    steps = [int(found[1]) for line in lines if (found := re.search(r"(\d+)/6 steps", line))]
    assert steps == sorted(steps)


def test_a_file_gets_a_few_lines(tmp_path, model, screen):
    shown = screen(terminal=False)
    run(tmp_path, model, StepProgress(), steps=20)
    assert 1 <= len(shown.shown) <= 3
    assert "20/20 steps" in shown.shown[-1]


def test_a_teacher_that_is_asked_in_a_thread(tmp_path, model, screen):
    shown, progress = screen(), Eager()
    run(tmp_path, model, progress, teacher=Elsewhere(model), steps=12)
    assert progress._left.threaded
    assert any(line.startswith("making conversations:") for line in shown.shown)
    assert "12/12 steps" in shown.shown[-1] and shown.shown[-1].startswith("cartridge")
    progress.on_group(RoundNews(groups=1, of=2, writes=True, made=4, seconds=1.0, batches=2.0))
    assert progress._bar is None  # a thread that is late opens no bar


def test_conversations_that_are_read_are_not_made(tmp_path, model, screen):
    shown = screen()
    run(tmp_path, model, StepProgress(), recorded=save_recording(tmp_path / "recorded.parquet"))
    assert "making" not in shown.getvalue() and "6/6 steps" in shown.shown[-1]


def test_a_loader_of_ones_own_has_its_own_number_of_steps(tmp_path, model, screen):
    corpus = save_corpus(tmp_path / "corpus.txt")
    data = from_recording(corpus, save_recording(tmp_path / "recorded.parquet", corpus=corpus))
    _, curve = fit(tmp_path, new_module(model), data, max_steps=3)
    module, shown = new_module(model), screen()
    module.connect(from_recording(corpus, str(tmp_path / "recorded.parquet")))
    trainer = new_trainer(tmp_path, Eager(), enable_progress_bar=True, max_epochs=1, max_steps=-1)
    trainer.fit(module, DataLoader(curve.batches, batch_size=None))
    assert "0/3 steps" in shown.shown[0] and "3/3 steps" in shown.shown[-1]


def test_a_run_that_goes_on_begins_where_it_stood(tmp_path, model, screen):
    trainer, _ = run(tmp_path, model, StepProgress(), steps=3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    shown = screen()
    data = new_data(save_corpus(tmp_path / "corpus.txt"))
    fit(
        tmp_path,
        new_module(model),
        data,
        Eager(),
        ckpt_path=tmp_path / "last.ckpt",
        max_steps=5,
        enable_progress_bar=True,
    )
    assert "3/5 steps" in shown.shown[0] and "5/5 steps" in shown.shown[-1]
    assert any(
        line.startswith("reading conversations:") for line in shown.shown
    )  # of the round that it stopped in


def test_other_processes_than_the_first_are_told_nothing():
    data = SimpleNamespace(on_group=None)
    progress = StepProgress()
    progress.disable()
    progress.on_fit_start(SimpleNamespace(datamodule=data), None)
    assert data.on_group is None
    progress.enable()
    progress.on_fit_start(SimpleNamespace(datamodule=data), None)
    assert data.on_group == progress.on_group
