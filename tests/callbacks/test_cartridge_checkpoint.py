"""A run can be stopped and gone on with: by Ctrl-C, after an error, from its last checkpoint."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.callbacks import CartridgeCheckpoint
from tests.tiny_run import (
    Curve,
    from_recording,
    new_data,
    new_module,
    new_trainer,
    same_tensors,
    save_recording,
)


def fit(folder, model, corpus, *callbacks, checkpoint=None, ckpt_path=None, **options):
    """A run in ``folder`` on the fly, from the start or from a checkpoint; returns its module."""
    module, data = new_module(model), new_data(corpus)
    checkpoint = checkpoint or CartridgeCheckpoint(every_n_steps=2)
    trainer = new_trainer(
        folder, checkpoint, *callbacks, enable_checkpointing=True, **({"max_steps": 6} | options)
    )
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module


class At(Curve):
    """Does something at the end of a batch."""

    def __init__(self, step, act):
        super().__init__()
        self.step, self.act = step, act

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == self.step:
            self.act()


def test_the_exported_cartridge_is_the_trained_one_and_says_so(tmp_path, model_folder, corpus):
    module = fit(tmp_path, model_folder, corpus)
    exported = Cartridge.from_pretrained(tmp_path / "cartridge")
    assert same_tensors(dict(exported.state_dict()), dict(module.cartridge.state_dict()))
    assert exported.provenance.steps == 6 and exported.provenance.loss is not None
    assert exported.provenance.init == "FirstTokens" and exported.provenance.base_model == model_folder
    assert (tmp_path / "cartridge-best" / "cartridge.safetensors").exists()


def test_a_checkpoint_holds_cartridge_optimizer_and_stream_and_nothing_frozen(tmp_path, model_folder, corpus):
    fit(tmp_path, model_folder, corpus)
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    layers = range(2)
    assert set(content["state_dict"]) == {
        f"cartridge.{kind}_{side}.{layer}"
        for kind in ("frozen", "trainable")
        for side in ("keys", "values")
        for layer in layers
    }
    assert {state["exp_avg"].dtype for state in content["optimizer_states"][0]["state"].values()} == {
        torch.float32
    }
    assert content["SelfStudyDataModule"]["places"]
    assert (tmp_path / "checkpoints" / "last.ckpt").stat().st_size < 200_000


def test_ctrl_c_finishes_the_step_and_the_run_goes_on_bit_exactly(tmp_path, model_folder, corpus):
    undisturbed = fit(tmp_path / "a", model_folder, corpus)
    stopped = At(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    fit(tmp_path / "b", model_folder, corpus, stopped)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(stopped.losses) == 3 + (len(stopped.losses) > 3)  # the step in which it came, or the one after
    going_on = Curve()
    module = fit(
        tmp_path / "b", model_folder, corpus, going_on, ckpt_path=tmp_path / "b" / "checkpoints" / "last.ckpt"
    )
    assert len(stopped.losses) + len(going_on.losses) == 6
    assert same_tensors(dict(module.cartridge.state_dict()), dict(undisturbed.cartridge.state_dict()))
    parts = [sorted(p.name for p in (tmp_path / run / "recording").glob("*.parquet")) for run in "ab"]
    assert parts[0] == parts[1]


def test_an_error_keeps_the_last_good_checkpoint(tmp_path, model_folder, corpus):
    def fail():
        raise RuntimeError("disturbed")

    with pytest.raises(RuntimeError, match="disturbed"):
        fit(tmp_path / "b", model_folder, corpus, At(5, fail))
    content = torch.load(tmp_path / "b" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 4
    module = fit(tmp_path / "b", model_folder, corpus, ckpt_path=tmp_path / "b" / "checkpoints" / "last.ckpt")
    undisturbed = fit(tmp_path / "a", model_folder, corpus)
    assert same_tensors(dict(module.cartridge.state_dict()), dict(undisturbed.cartridge.state_dict()))


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, model_folder, corpus):
    recorded = save_recording(tmp_path / "recorded.parquet", corpus=corpus)
    module, data = new_module(model_folder), from_recording(corpus, recorded)

    def poison():
        with torch.no_grad():
            module.cartridge.trainable_keys[0].fill_(float("nan"))

    trainer = new_trainer(
        tmp_path, At(3, poison), CartridgeCheckpoint(every_n_steps=2), enable_checkpointing=True, max_steps=6
    )
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan in batch 3 .*last good checkpoint is kept"
    ):
        trainer.fit(module, data)
    kept = Cartridge.from_pretrained(tmp_path / "cartridge")
    assert kept.provenance.steps == 2
    assert all(bool(x.isfinite().all()) for x in kept.parameters())


def test_a_cartridge_that_a_step_has_spoilt_is_not_saved(tmp_path, model_folder, corpus):
    """The loss of a step says nothing of what the step made, and no loss comes after the last one."""
    recorded = save_recording(tmp_path / "recorded.parquet", corpus=corpus)
    module, data = new_module(model_folder), from_recording(corpus, recorded)

    def spoil():
        with torch.no_grad():
            module.cartridge.trainable_values[1][0, 0, 0] = float("inf")

    trainer = new_trainer(
        tmp_path, At(4, spoil), CartridgeCheckpoint(every_n_steps=2), enable_checkpointing=True, max_steps=4
    )
    with pytest.raises(
        FloatingPointError, match=r"after optimizer step 4 the values of layer 1 hold .*last good checkpoint"
    ):
        trainer.fit(module, data)
    assert Cartridge.from_pretrained(tmp_path / "cartridge").provenance.steps == 2


def test_best_follows_the_monitored_figure(tmp_path, model_folder, corpus):
    checkpoint = CartridgeCheckpoint(every_n_steps=1, monitor="train/perplexity", mode="max")
    fit(tmp_path, model_folder, corpus, checkpoint=checkpoint)
    best = Cartridge.from_pretrained(tmp_path / "cartridge-best")
    last = Cartridge.from_pretrained(tmp_path / "cartridge")
    assert checkpoint.best is not None
    assert best.provenance.steps < last.provenance.steps  # the perplexity falls, so its maximum is early


@pytest.mark.parametrize(("option", "value"), [("every_n_steps", 0), ("mode", "most")])
def test_bad_settings_name_themselves(option, value):
    with pytest.raises(ValueError, match=f"{option}={value!r} must be"):
        CartridgeCheckpoint(**{option: value})


@pytest.mark.parametrize(
    ("now", "best"),
    [({}, 0.5), ({"monitor": "val/loss"}, None), ({"mode": "max"}, None)],
    ids=["same", "other figure", "other mode"],
)
def test_the_best_so_far_is_that_of_the_same_figure(now, best):
    then = CartridgeCheckpoint()
    then.best = 0.5
    callback = CartridgeCheckpoint(**now)
    callback.load_state_dict(then.state_dict())
    assert callback.best == best
    old = CartridgeCheckpoint()
    old.load_state_dict({"best": 0.25})  # as version 0.1 wrote it
    assert old.best == 0.25
