"""SIGTERM, which clusters send before they take a node away, ends a run as Ctrl-C does; its status says that it is not done."""

from __future__ import annotations

import os
import random
import signal
import time
from types import SimpleNamespace

import pytest

from lit_cartridges.callbacks import CartridgeCheckpoint
from lit_cartridges.cartridge_cli import CartridgeCLI
from tests.faults.figures import Figures
from tests.faults.run_files import check_readable, check_same_end
from tests.faults.test_killed_from_outside import begun
from tests.tiny_run import (
    Curve,
    from_recording,
    new_module,
    new_trainer,
    save_corpus,
    save_model,
    save_recording,
)


class Tell(Curve):
    """Sends this process a signal while step 3 is being taken."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 2 and not trainer.should_stop:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_step_is_finished_and_saved(number, tmp_path):
    model, corpus = save_model(tmp_path / "model"), save_corpus(tmp_path / "corpus.txt")
    before = signal.getsignal(number)
    checkpoint = CartridgeCheckpoint(every_n_steps=100)
    recorded = save_recording(tmp_path / "recorded.parquet", corpus=corpus)
    trainer = new_trainer(tmp_path, Tell(number), checkpoint, enable_checkpointing=True, max_steps=8)
    trainer.fit(new_module(model), from_recording(corpus, recorded))
    assert trainer.global_step == 3
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert checkpoint.terminated == (number == signal.SIGTERM)
    assert checkpoint.interrupted
    assert signal.getsignal(number) is before


def test_a_signal_in_the_last_step_stops_nothing(tmp_path):
    model, corpus = save_model(tmp_path / "model"), save_corpus(tmp_path / "corpus.txt")
    checkpoint = CartridgeCheckpoint(every_n_steps=100)
    recorded = save_recording(tmp_path / "recorded.parquet", corpus=corpus)
    trainer = new_trainer(tmp_path, Tell(signal.SIGTERM), checkpoint, enable_checkpointing=True, max_steps=3)
    trainer.fit(new_module(model), from_recording(corpus, recorded))
    assert not checkpoint.terminated and not checkpoint.interrupted


@pytest.mark.parametrize(
    ("told", "status"), [({"terminated": True}, 143), ({"interrupted": True}, 130), ({}, None)]
)
def test_the_command_ends_with_the_status_of_the_signal(told, status):
    callbacks = [SimpleNamespace(), SimpleNamespace(**told)]
    cli = SimpleNamespace(trainer=SimpleNamespace(is_global_zero=False, callbacks=callbacks))
    if status is None:
        CartridgeCLI.after_fit(cli)
        return
    with pytest.raises(SystemExit) as end:
        CartridgeCLI.after_fit(cli)
    assert end.value.code == status


KINDS = {
    "SIGTERM": (143, [signal.SIGTERM]),
    "Ctrl-C": (130, [signal.SIGINT]),
    "Ctrl-C twice": (130, [signal.SIGINT, signal.SIGINT]),
}


@pytest.mark.thorough
@pytest.mark.faults
def test_signals_at_random_moments(start, undisturbed, tmp_path, long):
    """Also before the training has begun and while the model loads; with the same command they go on in the end."""
    draw, figures = random.Random(0), Figures("SIGTERM, Ctrl-C, Ctrl-C twice", long=long)
    alone = start(tmp_path / "alone")
    since = time.monotonic()
    assert alone.wait() == 0, alone.told()
    duration_s = time.monotonic() - since
    number = attempts = 0
    while any(figures.moments[kind] < (10 if long else 1) for kind in KINDS):
        folder, number = tmp_path / f"run-{number}", number + 1
        while True:
            kind = min(KINDS, key=lambda name: figures.moments[name])
            status, numbers = KINDS[kind]
            attempts += 1
            anew = long and attempts % 3 == 0
            fit = start(folder, forked=not anew)
            importing = anew and draw.random() < 0.3
            if not importing:
                fit.until(begun(fit, folder))
            for signal_number in numbers:
                end = time.monotonic() + draw.uniform(0, duration_s / (2 if long else 4) / len(numbers))
                fit.until(lambda end=end: time.monotonic() > end, every_s=0.001)
                fit.send(signal_number)
            ended = fit.wait()
            # A library that is being imported may answer a KeyboardInterrupt with an error of its own: status 1.
            statuses = (0, status, 1) if importing and status == 130 else (0, status)
            assert ended in statuses, f"{kind}, status {ended}:\n{fit.told()}"
            figures.outcomes["files read back whole"] += check_readable(folder) if folder.exists() else 0
            if ended == 0:
                break
            figures.moments[kind] += 1
            figures.outcomes[f"status {ended}"] += 1
            figures.outcomes["of them sent to an interpreter that had started anew"] += anew
        check_same_end(folder, undisturbed)
        figures.outcomes["runs that ended on the same bits"] += 1
    figures.save("3-told-to-stop")
