"""A loss that is not finite stops a run, at once or one micro-batch later, and before anything is saved."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.callbacks import CartridgeCheckpoint
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.module.finite_losses import FiniteLosses
from tests.module.test_device_waits import Happened
from tests.tiny_run import SaveAt, fit, from_recording, new_module

BAD = [float("nan"), float("inf"), -float("inf")]


@pytest.fixture
def late(monkeypatch):
    """As on a CUDA device."""
    monkeypatch.setattr(FiniteLosses, "_on_its_way", staticmethod(lambda loss: (loss.clone(), Happened())))


@pytest.mark.parametrize("bad", BAD)
def test_on_the_cpu_it_is_looked_at_at_once(bad):
    losses = FiniteLosses()
    losses.take(torch.tensor(1.0), "batch 0")
    with pytest.raises(FloatingPointError, match=f"the loss is {bad} in batch 1; the last good checkpoint"):
        losses.take(torch.tensor(bad), "batch 1")


@pytest.mark.parametrize("bad", BAD)
def test_on_a_device_when_the_next_is_taken_or_something_is_saved(late, bad):
    losses = FiniteLosses()
    losses.take(torch.tensor(bad), "batch 0")
    for ask in (losses.require, losses.require, lambda: losses.take(torch.tensor(1.0), "batch 1")):
        with pytest.raises(FloatingPointError, match=f"the loss is {bad} in batch 0"):
            ask()


def test_a_loss_that_changes_after_it_was_taken_is_judged_by_what_it_was(late):
    losses, loss = FiniteLosses(), torch.tensor(1.0)
    losses.take(loss, "batch 0")
    loss.fill_(float("nan"))
    losses.require()


def poisoned_run(tmp_path, model_folder, corpus, recorded, step, *callbacks, **options):
    """A run whose loss of the batch behind optimizer step ``step`` is NaN."""
    module = new_module(model_folder)
    losses = module.losses

    def poisoned(batch):
        total, *others = losses(batch)
        return (total * (float("nan") if module.global_step == step else 1), *others)

    module.losses = poisoned
    fit(tmp_path, module, from_recording(corpus, recorded), *callbacks, **options)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_no_checkpoint_is_written_behind_it(tmp_path, model_folder, corpus, recorded, late, step):
    """Of this package's callback and of Lightning, at the step itself, and at the run's end."""
    saving = CartridgeCheckpoint(every_n_steps=1)
    with pytest.raises(FloatingPointError, match=rf"loss is nan in batch {step} \(optimizer step {step};"):
        poisoned_run(
            tmp_path, model_folder, corpus, recorded, step, saving, enable_checkpointing=True, max_steps=4
        )
    kept = Cartridge.from_pretrained(tmp_path / "cartridge")
    assert kept.provenance.steps == step
    assert all(bool(x.isfinite().all()) for x in kept.parameters())


def test_lightnings_own_checkpoints_are_refused_too(tmp_path, model_folder, corpus, recorded, late):
    with pytest.raises(FloatingPointError, match="loss is nan in batch 1 "):
        poisoned_run(tmp_path, model_folder, corpus, recorded, 1, SaveAt(2, tmp_path / "a.ckpt"))
    assert not (tmp_path / "a.ckpt").exists()


def test_the_last_loss_of_a_run_is_looked_at(tmp_path, model_folder, corpus, recorded, late):
    with pytest.raises(FloatingPointError, match="loss is nan in batch 3 "):
        poisoned_run(tmp_path, model_folder, corpus, recorded, 3)
