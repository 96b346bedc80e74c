"""Optimizers and schedules of one's own, against a loop by hand over the same gradients."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim import LBFGS, SGD, AdamW
from torch.optim.lr_scheduler import LinearLR, StepLR

from lit_cartridges.cli import main
from lit_cartridges.errors import SettingError
from lit_cartridges.module import optimizers
from tests.dispatched import Dispatched
from tests.test_cli import command, options  # noqa: F401  a fixture
from tests.tiny_run import Curve, SaveAt, fit, from_recording, new_module, same_tensors


class Watch(Curve):
    """The gradients and the learning rate of every optimizer step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        grads = [p.grad.clone() for p in pl_module.cartridge.parameters()]
        self.steps.append((grads, optimizer.param_groups[0]["lr"]))


@pytest.fixture
def run(tmp_path, model_folder, corpus, recorded):
    def run(optimizer=None, scheduler=None, *callbacks, **settings):
        module, watch = new_module(model_folder), Watch()
        module.use_optimizer(optimizer, scheduler)
        data = from_recording(corpus, recorded, validation=recorded, validation_groups=1)
        trainer, _ = fit(tmp_path, module, data, watch, *callbacks, **settings)
        return module, trainer, watch

    return run


@pytest.mark.parametrize("accumulate", [1, 2])
def test_sgd_with_a_schedule_is_the_loop_by_hand(run, model_folder, accumulate):
    started = {}

    class Start(Curve):
        def on_train_start(self, trainer, pl_module):
            started.update({k: v.clone() for k, v in pl_module.cartridge.state_dict().items()})

    module, _, watch = run(
        lambda tensors: SGD(tensors, lr=0.5, momentum=0.9),
        lambda optimizer: StepLR(optimizer, 2, gamma=0.1),
        Start(),
        accumulate_grad_batches=accumulate,
    )
    assert [rate for _, rate in watch.steps] == pytest.approx([0.5, 0.5, 0.05, 0.05])
    for place, (name, tensor) in enumerate(module.cartridge.named_parameters()):
        expected, momentum = started[name], 0.0
        for grads, rate in watch.steps:
            momentum = 0.9 * momentum + grads[place]
            expected = expected - rate * momentum
        torch.testing.assert_close(tensor, expected)


def test_an_optimizer_alone_keeps_its_rate_and_a_schedule_alone_is_adams(run):
    assert {rate for _, rate in run(lambda tensors: AdamW(tensors, lr=0.3))[2].steps} == {0.3}
    _, trainer, watch = run(None, lambda optimizer: LinearLR(optimizer, 1.0, 0.0, total_iters=4))
    assert [rate for _, rate in watch.steps] == pytest.approx([0.05, 0.0375, 0.025, 0.0125])
    assert type(trainer.optimizers[0]) is torch.optim.Adam


def test_a_run_goes_on_with_their_state(run, tmp_path):
    own = (lambda tensors: AdamW(tensors, lr=0.1), lambda optimizer: StepLR(optimizer, 1, gamma=0.5))
    whole, _, curve = run(*own, SaveAt(2, tmp_path / "at.ckpt"))
    rest, _, after = run(*own, ckpt_path=tmp_path / "at.ckpt")
    assert after.losses == curve.losses[2:]
    assert same_tensors(rest.state_dict(), whole.state_dict())


class InOptimizerStep(L.Callback):
    """What an optimizer step hands to the dispatcher, that of the backward pass left out."""

    def __init__(self) -> None:
        self.steps = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.steps.append(Dispatched())
        self.steps[-1].__enter__()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps[-1].__exit__(None, None, None)


def test_adam_on_a_device_is_one_launch_and_its_state_is_the_plain_ones(run, tmp_path, monkeypatch):
    """The CPU in the part of a CUDA device. Either goes on from the other's checkpoint."""
    plain, _, plain_curve = run(None, None, SaveAt(2, tmp_path / "plain.ckpt"))
    with monkeypatch.context() as fusing:
        fusing.setattr(optimizers, "fuses", lambda device: True)
        fused, _, fused_curve = run(None, None, SaveAt(2, tmp_path / "fused.ckpt"))
        watch = InOptimizerStep()
        onwards, trainer, _ = run(None, None, watch, ckpt_path=tmp_path / "plain.ckpt", log_every_n_steps=99)
        assert trainer.optimizers[0].param_groups[0]["fused"] is True
    assert len(watch.steps) == 2
    for step in watch.steps:
        assert step.names["_fused_adam_"] == 1 and step.launched < 8
        assert step.waits == {"_local_scalar_dense": 2}, "two curves look at the loss afterwards"
    back, trainer, _ = run(ckpt_path=tmp_path / "fused.ckpt")
    assert trainer.optimizers[0].param_groups[0]["fused"] is None
    assert fused_curve.losses == pytest.approx(plain_curve.losses, rel=1e-4)
    for other in (fused, onwards, back):
        for mine, theirs in zip(plain.cartridge.parameters(), other.cartridge.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    states = [
        torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["optimizer_states"][0]
        for name in ("plain", "fused")
    ]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for mine, theirs in zip(states[0]["state"].values(), states[1]["state"].values(), strict=True):
        assert mine.keys() == theirs.keys() and torch.equal(mine["step"], theirs["step"])
        assert theirs["step"].device.type == "cpu"


def test_a_plateau_is_looked_at_when_its_figure_is_new(run, monkeypatch):
    """Nothing gets better by so much, so every look halves the rate."""

    def plateau(optimizer):
        return ReduceLROnPlateau(optimizer, watched[-1], factor=0.5, patience=0, threshold=1e6)

    watched = []
    for monitor, settings in (
        ("val/loss", {"val_check_interval": 2}),
        ("train/loss", {"log_every_n_steps": 2}),
    ):
        watched.append(monitor)
        _, _, watch = run(lambda tensors: SGD(tensors, lr=1.0), plateau, max_steps=8, **settings)
        assert [rate for _, rate in watch.steps] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    watched.append("val/loss")
    monkeypatch.setattr("lit_cartridges.module.lit_cartridge.load_frozen_model", None)
    with pytest.raises(
        SettingError, match="lr_scheduler: it monitors val/loss, .* set trainer.val_check_interval"
    ):
        run(None, plateau)


def test_an_optimizer_that_reads_batches_again_is_refused(model_folder):
    with pytest.raises(SettingError, match="LBFGS.*several times"):
        new_module(model_folder).use_optimizer(LBFGS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--optimizer", "Nope"], "--optimizer=Nope: there is no such Optimizer"),
        (
            ["--optimizer", "AdamW", "--optimizer.lr=-1"],
            "--optimizer='AdamW' cannot be made: Invalid learning rate",
        ),
        (
            ["--optimizer", "AdamW", "--model.learning_rate=0.3"],
            "--model.learning_rate=0.3: has no effect with --optimizer",
        ),
        (
            ["--optimizer", "AdamW", "--model.warmup_steps=3"],
            "--model.warmup_steps=3: has no effect with --optimizer",
        ),
        (
            ["--lr_scheduler", "StepLR", "--lr_scheduler.step_size=1", "--model.final_lr_share=0.5"],
            "--model.final_lr_share=0.5: has no effect with --lr_scheduler",
        ),
        (["--lr_scheduler", "StepLR"], "--lr_scheduler.step_size: must be given with StepLR"),
    ],
)
def test_what_cannot_work_is_one_line_before_the_model_loads(options, capsys, monkeypatch, arguments, told):  # noqa: F811
    monkeypatch.setattr("lit_cartridges.module.lit_cartridge.load_frozen_model", None)
    with pytest.raises(SystemExit) as end:
        main(command("fit", options, *arguments))
    err = capsys.readouterr().err
    assert end.value.code == 2 and told in err and err.count("\n") == 1


def test_the_command_trains_with_them_and_goes_on_with_no_others(tmp_path, options, capsys):  # noqa: F811
    named = ["--optimizer", "AdamW", "--optimizer.lr=0.25"]
    main(command("fit", options, *named, "--lr_scheduler", "StepLR", "--lr_scheduler.step_size=2"))
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    [group] = state["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == 0.01 and group["initial_lr"] == 0.25
    with pytest.raises(SystemExit):
        main(command("fit", options | {"trainer.max_steps": 6}))
    told = capsys.readouterr().err
    assert "optimizer='torch.optim.AdamW', and this run has None" in told
