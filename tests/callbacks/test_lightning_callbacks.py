"""Every callback of Lightning's does in a training here what docs/lightning.md says."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import lightning.pytorch.callbacks as known
import pytest
import torch
from lightning.fabric.utilities.spike import TrainingSpikeException
from lightning.pytorch.loggers import CSVLogger

from lit_cartridges import Cartridge
from lit_cartridges.callbacks import CartridgeCheckpoint, StepProgress
from lit_cartridges.errors import SettingError
from tests.tiny_run import SaveAt, fit, from_recording, new_module, new_trainer, same_tensors

PAGE = Path(__file__).parents[2] / "docs" / "lightning.md"
ROWS = dict(re.findall(r"^\| `(\w+)` \| (works|refused) \|", PAGE.read_text(), re.MULTILINE))
STEPS = 4


class Run:
    """Trainings over one recording, each with one callback."""

    def __init__(self, folder, model, corpus, recorded) -> None:
        self.folder, self.model, self.corpus, self.recorded = folder, model, corpus, recorded

    def data(self, **more):
        options = {"validation": self.recorded, "validation_groups": 1, "tokens_per_batch": 40} | more
        return from_recording(self.corpus, self.recorded, **options)

    def __call__(self, *callbacks, ckpt_path=None, **options):
        module = new_module(self.model)
        trainer, curve = fit(
            self.folder,
            module,
            self.data(),
            *callbacks,
            ckpt_path=ckpt_path,
            **({"max_steps": STEPS} | options),
        )
        return module, trainer, curve

    def logged(self, *callbacks, **options) -> str:
        logger = CSVLogger(self.folder / "logs", name="", version="")
        self(*callbacks, logger=logger, log_every_n_steps=1, **options)
        return (self.folder / "logs" / "metrics.csv").read_text()


@pytest.fixture
def run(tmp_path, model_folder, corpus, recorded):
    return Run(tmp_path / "run", model_folder, corpus, recorded)


def test_every_row_is_a_callback_and_has_its_test():
    assert set(ROWS) == set(known.__all__)
    for name, verdict in ROWS.items():
        assert f"test_{name}" in globals() or (verdict == "refused" and name in REFUSED), name


class Thaws(known.BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.student)

    def finetune_function(self, pl_module, epoch, optimizer):
        self.unfreeze_and_add_param_group(pl_module.student, optimizer)


REFUSED = {
    "BackboneFinetuning": (known.BackboneFinetuning, "thaws a model"),
    "BaseFinetuning": (Thaws, "thaws a model"),
    "BatchSizeFinder": (known.BatchSizeFinder, "set that"),
    "GradientAccumulationScheduler": (
        lambda: known.GradientAccumulationScheduler({0: 2}),
        "set trainer.accumulate_grad_batches",
    ),
    "ModelPruning": (lambda: known.ModelPruning("l1_unstructured"), "would prune the frozen model"),
    "OnExceptionCheckpoint": (
        lambda: known.OnExceptionCheckpoint("there"),
        "in the middle of an optimizer step",
    ),
    "StochasticWeightAveraging": (lambda: known.StochasticWeightAveraging(1e-2), "take EMAWeightAveraging"),
}


def refused(run, callback, message, monkeypatch, **options):
    monkeypatch.setattr("lit_cartridges.module.lit_cartridge.load_frozen_model", None)
    with pytest.raises(SettingError, match=message):
        run(callback, **options)
    assert not run.folder.exists()


@pytest.mark.parametrize("name", REFUSED)
def test_a_callback_that_would_do_wrong_is_refused_before_the_model_loads(run, name, monkeypatch):
    assert ROWS[name] == "refused"
    make, message = REFUSED[name]
    refused(run, make(), rf"trainer.callbacks: \w+ .*{message}", monkeypatch, enable_checkpointing=True)


def test_Callback(run):
    class Steps(known.Callback):
        seen = 0

        def on_train_batch_end(self, *_):
            self.seen += 1

    mine = Steps()
    run(mine)
    assert mine.seen == STEPS


def test_Checkpoint(run):
    class At(known.Checkpoint):
        def on_train_end(self, trainer, pl_module):
            trainer.save_checkpoint(run.folder / "mine.ckpt")

    module, *_ = run(At(), enable_checkpointing=True)
    held = torch.load(run.folder / "mine.ckpt", weights_only=True)["state_dict"]
    assert same_tensors(held, module.state_dict())


def test_ModelCheckpoint(run, monkeypatch):
    """A run goes on from one as from ours."""
    whole, _, curve = run()
    saves = known.ModelCheckpoint(run.folder / "theirs", every_n_train_steps=2, save_top_k=-1)
    run(saves, enable_checkpointing=True)
    assert {path.name for path in (run.folder / "theirs").iterdir()} >= {
        "epoch=0-step=2.ckpt",
        "epoch=0-step=4.ckpt",
    }
    rest, _, second = run(ckpt_path=run.folder / "theirs" / "epoch=0-step=2.ckpt")
    assert second.losses == curve.losses[2:]
    assert same_tensors(rest.state_dict(), whole.state_dict())
    best = known.ModelCheckpoint(run.folder / "best", monitor="val/loss")
    run(best, enable_checkpointing=True, val_check_interval=2)
    assert torch.isfinite(best.best_model_score) and Path(best.best_model_path).exists()


def test_ModelCheckpoint_within_a_step_or_without_its_figure_is_refused(run, monkeypatch):
    for options, message, more in (
        ({"save_on_exception": True}, "save_on_exception", {}),
        (
            {"train_time_interval": timedelta(seconds=1)},
            "set every_n_train_steps",
            {"accumulate_grad_batches": 2},
        ),
        ({"monitor": "val/loss"}, "set trainer.val_check_interval", {}),
    ):
        callback = known.ModelCheckpoint(run.folder / "theirs", **options)
        refused(run, callback, message, monkeypatch, enable_checkpointing=True, **more)


def test_EarlyStopping(run):
    for options in (
        {"monitor": "val/loss", "val_check_interval": 2},
        {"monitor": "train/loss", "val_check_interval": 2},
        {"monitor": "train/loss", "limit_train_batches": 2, "limit_val_batches": 0},
    ):
        # Nothing gets better by so much, so the second look is the last.
        stops = known.EarlyStopping(options.pop("monitor"), min_delta=1e6, patience=1)
        assert run(stops, max_steps=8, **options)[1].global_step == 4


@pytest.mark.parametrize("monitor", ["val/loss", "train/loss"])
def test_EarlyStopping_that_would_never_look_says_which_setting_to_add(run, monkeypatch, monitor):
    refused(run, known.EarlyStopping(monitor), "set trainer.val_check_interval", monkeypatch)
    with pytest.raises(SettingError, match="set data.validation"):
        nothing = run.data(validation=None)
        fit(run.folder, new_module(run.model), nothing, known.EarlyStopping(monitor), val_check_interval=2)
    waits = known.EarlyStopping(monitor, check_on_train_epoch_end=True)
    refused(run, waits, "check_on_train_epoch_end to false", monkeypatch, val_check_interval=2)
    refused(
        run,
        known.EarlyStopping(monitor),
        "check_on_train_epoch_end to false",
        monkeypatch,
        val_check_interval=1,
    )


def test_Timer(run, monkeypatch):
    timer = known.Timer("00:01:00:00")
    late = {"time_elapsed": {"train": 7200.0}}
    over = known.LambdaCallback(
        on_train_batch_start=lambda *a: timer.load_state_dict(late) if a[-1] == 1 else None
    )
    assert run(timer, over)[1].global_step == 2
    waits = known.Timer("00:01:00:00", interval="epoch")
    run.folder = run.folder / "other"
    refused(run, waits, "interval=epoch", monkeypatch)


def test_LearningRateMonitor(run):
    assert "lr-Adam" in run.logged(known.LearningRateMonitor())


def test_DeviceStatsMonitor(run):
    assert "DeviceStatsMonitor.on_train_batch_start" in run.logged(known.DeviceStatsMonitor())


def test_ThroughputMonitor(run):
    told = run.logged(known.ThroughputMonitor(batch_size_fn=lambda batch: len(batch.lengths)))
    assert "train/samples" in told


def test_LearningRateFinder(run):
    """The stream is where it was, and the rate that is found is the one that is trained with."""
    _, _, curve = run()
    finder = known.LearningRateFinder(num_training_steps=30, early_stop_threshold=None)
    module, trainer, after = run(finder, enable_checkpointing=True)
    assert [b.input_ids.tolist() for b in after.batches] == [b.input_ids.tolist() for b in curve.batches]
    found = finder.optimal_lr.suggestion()
    assert module.learning_rate == found != 0.05
    [group] = trainer.optimizers[0].param_groups
    assert group["initial_lr"] == found and group["lr"] == pytest.approx(found * 0.1)


def test_SpikeDetection(run):
    module, *_ = run(known.SpikeDetection(warmup=1, atol=1e6))
    with pytest.raises(TrainingSpikeException):
        run(known.SpikeDetection(warmup=1, atol=0.0, rtol=0.0, mode="max"))


def test_LambdaCallback(run):
    seen = []
    run(known.LambdaCallback(on_train_batch_end=lambda trainer, *_: seen.append(trainer.global_step)))
    assert seen == [1, 2, 3, 4]


def test_ModelSummary(run, caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        run(known.ModelSummary())
    assert "cartridge" in caplog.text


def test_RichModelSummary(run, capsys):
    run(known.RichModelSummary())
    assert "cartridge" in capsys.readouterr().out


@pytest.mark.parametrize("bar", [known.TQDMProgressBar, known.RichProgressBar])
def test_bars(run, bar, capsys):
    run(bar(), enable_progress_bar=True)
    assert "loss" in "".join(capsys.readouterr())


test_TQDMProgressBar = test_RichProgressBar = test_bars


def test_ProgressBar(run, capsys):
    assert issubclass(StepProgress, known.ProgressBar)
    run(StepProgress(), enable_progress_bar=True)
    assert "4/4" in capsys.readouterr().err


def test_BasePredictionWriter(run):
    class Writer(known.BasePredictionWriter):
        tokens = 0

        def write_on_batch_end(self, trainer, pl_module, prediction, batch_indices, batch, *_):
            self.tokens += len(prediction["nll"])

    writer = Writer("batch")
    new_trainer(run.folder, writer).predict(new_module(run.model), run.data())
    assert writer.tokens > 0


class Watch(known.Callback):
    """The cartridge after every optimizer step."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen.append({name: x.clone() for name, x in pl_module.state_dict().items()})


def average_of(seen, decay: float) -> dict:
    """The exponential moving average of these, by hand."""
    mean = dict(seen[0])
    for one in seen[1:]:
        mean = {name: decay * mean[name] + (1 - decay) * one[name] for name in mean}
    return mean


def close(mine, theirs) -> bool:
    return mine.keys() == theirs.keys() and all(torch.allclose(mine[n], theirs[n], atol=1e-6) for n in mine)


def test_EMAWeightAveraging(run, monkeypatch):
    """The cartridge alone is averaged, and no frozen weight moves by a bit; what is saved and validated is the average."""
    frozen = {}

    class Frozen(known.Callback):
        def on_train_start(self, trainer, pl_module):
            frozen.update({name: x.clone() for name, x in pl_module.student.state_dict().items()})

    def averaging():
        return known.EMAWeightAveraging(decay=0.5)

    def saves():
        return CartridgeCheckpoint(every_n_steps=2, monitor="val/loss")

    watch = Watch()
    options = {"enable_checkpointing": True, "val_check_interval": 2}
    module, trainer, curve = run(averaging(), watch, Frozen(), saves(), **options)
    expected = average_of(watch.seen, 0.5)
    assert not close(watch.seen[-1], expected)
    assert close(module.state_dict(), expected)
    assert same_tensors(dict(module.student.state_dict()), frozen)
    exported = Cartridge.from_pretrained(run.folder / "cartridge").state_dict(prefix="cartridge.")
    last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert close(exported, expected) and close(last["state_dict"], expected)
    assert close(last["current_model_state"], watch.seen[-1])
    alone = new_module(run.model)
    scored = new_trainer(run.folder).validate(alone, run.data(), run.folder / "checkpoints" / "last.ckpt")
    assert scored[0]["val/loss"] == pytest.approx(float(trainer.callback_metrics["val/loss"]), abs=1e-5)
    # Goes on bit by bit from the middle.
    whole = {name: x.clone() for name, x in module.state_dict().items()}
    run.folder = run.folder / "again"
    run(averaging(), saves(), SaveAt(2, run.folder / "at.ckpt"), **options)
    rest, _, after = run(averaging(), ckpt_path=run.folder / "at.ckpt", **options)
    assert after.losses == curve.losses[2:] and same_tensors(rest.state_dict(), whole)


def test_WeightAveraging(run, monkeypatch):
    watch = Watch()
    module, *_ = run(known.WeightAveraging(), watch)
    mean = {name: sum(one[name] for one in watch.seen) / STEPS for name in watch.seen[0]}
    assert close(module.state_dict(), mean)
    monkeypatch.setattr("lightning.pytorch.strategies.SingleDeviceStrategy.in_step", None, raising=False)
    run.folder = run.folder / "sharded"
    refused(run, known.WeightAveraging(), "knows no sharded models", monkeypatch)


def test_settings_are_looked_at_before_an_averaging_callback_loads_the_model(run, monkeypatch):
    monkeypatch.setattr("lit_cartridges.module.lit_cartridge.load_frozen_model", None)
    with pytest.raises(ValueError, match="trainer.max_steps"):
        run(known.EMAWeightAveraging(), max_steps=-1, max_epochs=1)
