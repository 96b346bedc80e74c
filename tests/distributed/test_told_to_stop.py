"""SIGTERM, which clusters send before they take a node away, ends a run as Ctrl-C does; its status says that it is not done."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from lit_cartridges.callbacks import CartridgeCheckpoint
from lit_cartridges.commands.trainer_cli import CartridgeCLI
from tests.tiny_run import Curve, new_data, new_module, new_trainer, save_corpus, save_model, save_recording


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
    trainer.fit(new_module(model), new_data(corpus, recorded=recorded))
    assert trainer.global_step == 3
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert checkpoint.terminated == (number == signal.SIGTERM)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("terminated", [True, False])
def test_the_command_ends_with_status_143_after_sigterm(terminated):
    callbacks = [SimpleNamespace(), SimpleNamespace(terminated=terminated)]
    cli = SimpleNamespace(trainer=SimpleNamespace(callbacks=callbacks))
    if not terminated:
        CartridgeCLI.after_fit(cli)
        return
    with pytest.raises(SystemExit) as end:
        CartridgeCLI.after_fit(cli)
    assert end.value.code == 143
