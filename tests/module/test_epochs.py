"""Epochs: a run whose stream is cut into stretches is the run that is not (law 6), and Lightning's habits hold."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Timer

from lit_cartridges.callbacks import CartridgeCheckpoint
from lit_cartridges.errors import SettingError
from tests.tiny_run import (
    SaveAt,
    fit,
    from_recording,
    new_data,
    new_module,
    same_tensors,
    save_corpus,
    save_recording,
)

STEPS = 12


def _named(value: object) -> str:
    """The same in every process: a function by its name, not by its address."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={getattr(x, '__name__', x)}" for name, x in value.items())
    return str(value)


def inputs(curve) -> list[list[int]]:
    return [batch.input_ids[0].tolist() for batch in curve.batches]


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory, model_folder):
    """A run of one endless epoch, which makes its conversations: its corpus, and the module, trainer and curve."""
    folder = tmp_path_factory.mktemp("unlimited")
    corpus = save_corpus(folder / "corpus.txt")
    module = new_module(model_folder)
    trainer, curve = fit(folder, module, new_data(corpus), max_steps=STEPS)
    assert len({str(one) for one in inputs(curve)}) == STEPS
    return corpus, module, trainer, curve


def leaves_its_third_batch(batch, batch_idx):
    """Of every epoch, fetched though it is."""
    return -1 if batch_idx == 2 else None


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"limit_train_batches": 3}, 4),
        ({"limit_train_batches": 5}, 3),
        ({"limit_train_batches": 4, "reload_dataloaders_every_n_epochs": 1}, 3),
        ({"limit_train_batches": 3, "check_val_every_n_epoch": 2, "num_sanity_val_steps": 2}, 4),
        ({"num_sanity_val_steps": -1}, 1),
        ({"on_train_batch_start": leaves_its_third_batch}, 6),
    ],
    ids=_named,
)
def test_the_batches_are_those_of_a_run_without_epochs(tmp_path, model_folder, unlimited, options, epochs):
    corpus, whole, trainer, curve = unlimited
    module, options = new_module(model_folder), dict(options)
    if "on_train_batch_start" in options:
        module.on_train_batch_start = options.pop("on_train_batch_start")
    data = new_data(corpus, validation_groups=1)
    cut, cut_curve = fit(tmp_path, module, data, max_steps=STEPS, **options)
    assert inputs(cut_curve) == inputs(curve)
    if epochs != 6:  # Lightning moves the learning rate on for a batch that it leaves out
        assert cut_curve.losses == curve.losses
        assert same_tensors(whole.state_dict(), module.state_dict())
    assert cut.datamodule.stream_state == trainer.datamodule.stream_state
    assert cut.fit_loop.epoch_progress.total.ready == epochs
    assert cut_curve.batches[-1].counts == curve.batches[-1].counts | {
        "generating_s": cut_curve.batches[-1].counts["generating_s"]
    }


class Ends(L.Callback):
    """The optimizer steps after which epochs end."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize("options", [{}, {"reload_dataloaders_every_n_epochs": 1}, {"val_check_interval": 3}])
def test_a_run_of_several_epochs_goes_on_at_the_right_place(tmp_path, model_folder, unlimited, options):
    """From checkpoints within an epoch and at its end; the epochs end where they would have."""
    corpus, _, trainer, curve = unlimited
    options = {"max_steps": STEPS, "limit_train_batches": 3, **options}

    def run(*callbacks, **more):
        data = new_data(corpus, validation_groups=1, recording=str(tmp_path / "recording"))
        return fit(tmp_path, new_module(model_folder), data, *callbacks, **options, **more)

    run(*(SaveAt(step, tmp_path / f"{step}.ckpt") for step in (2, 3, 7)))
    for step in (2, 3, 7):
        ends = Ends()
        again, rest = run(ends, ckpt_path=tmp_path / f"{step}.ckpt")
        assert rest.losses == curve.losses[step:]
        assert again.datamodule.stream_state == trainer.datamodule.stream_state
        assert ends.steps[-3:] == [6, 9, 12][-len(ends.steps) :] and ends.steps[0] in (3, 6, 9)


class TimeIsOver(L.Callback):
    """After the first micro-batch of the third optimizer step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 4:
            timer = next(one for one in trainer.callbacks if isinstance(one, Timer))
            timer.load_state_dict({"time_elapsed": {"train": 3600.0}})


@pytest.mark.parametrize(
    ("limits", "done"),
    [({"max_epochs": 2, "limit_train_batches": 4}, 4), ({"max_time": {"hours": 1}}, 2)],
    ids=_named,
)
def test_a_run_that_something_else_ends_saves_there_and_goes_on(
    tmp_path, model_folder, unlimited, limits, done
):
    """Time may be over within an optimizer step, of which nothing is kept then."""
    corpus = unlimited[0]
    options = {"max_steps": 6, "accumulate_grad_batches": 2, "limit_val_batches": 0, "limit_train_batches": 6}

    def run(*callbacks, **more):
        module = new_module(model_folder, final_lr_share=1.0)
        data = new_data(corpus, recording=str(tmp_path / "recording"))
        return module, *fit(tmp_path, module, data, *callbacks, **options | more)

    whole, _, curve = run(limit_train_batches=1.0)
    limits |= {"enable_checkpointing": True}
    _, begun, first = run(CartridgeCheckpoint(folder=str(tmp_path / "run")), TimeIsOver(), **limits)
    assert begun.global_step == len(first.losses) == done
    at = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    options["limit_train_batches"] = at["settings"]["trainer.limit_train_batches"]
    rest, _, second = run(ckpt_path=tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert first.losses + second.losses == curve.losses
    assert same_tensors(whole.state_dict(), rest.state_dict())


def test_overfitting_trains_on_the_same_batches_and_goes_on_with_them(tmp_path, model_folder, unlimited):
    corpus, _, _, curve = unlimited
    options = {"overfit_batches": 3, "max_steps": 8}
    at = tmp_path / "at.ckpt"
    whole = new_module(model_folder)
    data = new_data(corpus, validation_groups=1)
    _, over = fit(tmp_path, whole, data, SaveAt(4, at), **options)
    assert inputs(over) == (inputs(curve)[:3] * 3)[:8]
    rest = new_module(model_folder)
    _, again = fit(tmp_path, rest, new_data(corpus, validation_groups=1), ckpt_path=at, **options)
    assert again.losses == over.losses[4:]
    assert same_tensors(whole.state_dict(), rest.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"limit_train_batches": 3},
            "trainer.limit_train_batches=3, trainer.accumulate_grad_batches=2: an epoch",
        ),
        ({"overfit_batches": 1}, "trainer.overfit_batches=1, trainer.accumulate_grad_batches=2: an epoch"),
        ({"overfit_batches": 1.0}, "trainer.overfit_batches=1.0 must be a number of batches"),
    ],
    ids=_named,
)
def test_epochs_that_would_cut_a_step_are_refused(tmp_path, model_folder, corpus, options, message):
    with pytest.raises(SettingError, match=message):
        fit(tmp_path, new_module(model_folder), new_data(corpus), accumulate_grad_batches=2, **options)


def test_a_number_of_epochs_alone_is_no_end(tmp_path, model_folder, corpus):
    with pytest.raises(ValueError, match="trainer.max_steps=-1: the stream has no end"):
        fit(tmp_path, new_module(model_folder), new_data(corpus), max_steps=-1, max_epochs=2)


@pytest.mark.parametrize("batches", [True, 3])
def test_a_fast_dev_run_writes_nothing(tmp_path, model_folder, corpus, batches):
    module, folder = new_module(model_folder), tmp_path / "run"
    before = written(tmp_path)
    trainer, curve = fit(
        folder,
        module,
        new_data(corpus, validation_groups=1),
        CartridgeCheckpoint(every_n_steps=1),
        fast_dev_run=batches,
        accumulate_grad_batches=1,
        enable_checkpointing=True,
        logger=True,
    )
    assert trainer.global_step == len(curve.losses) == int(batches)
    assert torch.isfinite(trainer.callback_metrics["val/loss"])
    assert written(tmp_path) == before


def test_shards_stay_as_dealt_when_the_loader_is_made_again(tmp_path, model_folder):
    """Where several processes share them, each knows the places of its own alone."""
    corpus = save_corpus(tmp_path / "corpus.txt")
    recorded = save_recording(tmp_path / "recorded.parquet", corpus=corpus)
    data = from_recording(corpus, recorded, num_shards=4)
    fit(tmp_path, new_module(model_folder), data, max_steps=1)
    data._dealt, data.stream_state = 4, type(data.stream_state)({1: (0, 2), 3: (0, 1)})
    assert data._stream_shards(2) == 4
