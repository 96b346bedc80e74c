"""A run goes on with the settings that it was made with: others are refused by name, or take effect and are told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lightning as L
import pytest
import torch

from lit_cartridges.cli import main
from lit_cartridges.losses import NextToken
from lit_cartridges.runs.resuming import ResumeError, accept, same, shown
from lit_cartridges.runs.run_progress import learning_rate_share
from tests.faults.command import arguments, options
from tests.tiny_run import (
    SaveAt,
    fit,
    from_recording,
    new_data,
    new_module,
    new_trainer,
    save_corpus,
    save_recording,
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, model_folder):
    """A folder with a run of three steps, and its options."""
    folder = tmp_path_factory.mktemp("begun")
    settings = options(folder / "run", model_folder, save_corpus(folder / "corpus.txt"))
    settings |= {"trainer.max_steps": 3, "checkpoint.every_n_steps": 100}
    main(arguments("fit", settings))
    return settings


@pytest.fixture
def run(tmp_path, begun):
    """A copy of that run, and its options."""
    folder = tmp_path / "run"
    shutil.copytree(begun["trainer.default_root_dir"], folder)
    return begun | {"trainer.default_root_dir": folder}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def resumed_lines(caplog) -> list[str]:
    """What a run that goes on tells, but for its folder, which is a copy."""
    copied = "resumed with trainer.default_root_dir"
    lines = [r.getMessage() for r in caplog.records if r.name == "lit_cartridges.runs.resuming"]
    return sorted(line for line in lines if not line.startswith(copied))


CHANGES = {
    "model.num_tokens": (9, "8", "9"),
    "model.num_frozen_tokens": (2, "1", "2"),
    "model.init": ("RandomVectors", "'FirstTokens'", "'RandomVectors'"),
    "model.objective": ("FullDistillation", "'TopKDistillation'", "'FullDistillation'"),
    "model.betas": ("[0.8,0.999]", "[0.9, 0.999]", "[0.8, 0.999]"),
    "model.dtype": ("bfloat16", "'float32'", "'bfloat16'"),
    "model.seed": (4, "0", "4"),
    "trainer.accumulate_grad_batches": (2, "1", "2"),
    "trainer.limit_train_batches": (4, "1.0", "4"),
    "data.uses": (2, "1", "2"),
    "data.groups_per_round": (2, "1", "2"),
    "data.source.max_chunk_tokens": (41, "40", "41"),
    "data.source.question_temperature": (0.5, "1.0", "0.5"),
    "data.source.answer_max_tokens": (9, "8", "9"),
    "data.source.conversations_per_group": (5, "4", "5"),
    "data.tokens_per_batch": (41, "40", "41"),
    "data.num_shards": (2, "1", "2"),
    "data.seed": (5, "0", "5"),
    "data.system_template": ("w1 {chunk}", "'{chunk}'", "'w1 {chunk}'"),
}


@pytest.mark.parametrize(
    "names", [["model.dtype"], ["trainer.accumulate_grad_batches"], ["data.seed"], list(CHANGES)]
)
def test_what_must_not_change_is_refused_before_the_model_loads(run, capsys, monkeypatch, names):
    monkeypatch.setattr(
        "lit_cartridges.module.lit_cartridge.load_frozen_model",
        lambda *_, **__: pytest.fail("the model was loaded"),
    )
    folder = run["trainer.default_root_dir"]
    before = contents(folder)
    changes = {name: CHANGES[name][0] for name in names}
    with pytest.raises(SystemExit) as end:
        main(arguments("fit", run | changes | {"trainer.max_steps": 5}))
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "the checkpoint was made with " in told and "--resume never" in told and told.count("\n") == 1
    for name in names:
        _, then, now = CHANGES[name]
        assert f"with --{name}={then}, and this run has {now};" in told
    assert told.count("this run has") == len(names)
    assert contents(folder) == before


def test_another_corpus_and_other_seed_prompts_are_refused(run, tmp_path, capsys):
    """Both in one line; the order of the kinds is part of them, since a number draws from it."""
    prompts = dict(reversed(json.loads(run["data.source.seed_prompts"]).items()))
    other = {
        "data.corpus": save_corpus(tmp_path / "other.txt", seed=3),
        "data.source.seed_prompts": json.dumps(prompts),
    }
    with pytest.raises(SystemExit):
        main(arguments("fit", run | other))
    told = capsys.readouterr().err
    assert "data.corpus='" in told and "other.txt' (sha256 " in told and "data.source.seed_prompts=" in told


def test_the_mend_that_a_refusal_names_works(run, capsys):
    changed = run | {"data.seed": 5, "trainer.max_steps": 1}
    with pytest.raises(SystemExit):
        main(arguments("fit", changed))
    assert "--resume never and another data.source.recording" in capsys.readouterr().err
    recording = run["trainer.default_root_dir"] / "recording-5"
    main(arguments("fit", changed | {"data.source.recording": recording}) + ["--resume=never"])


def test_the_config_is_written_when_the_training_begins(run):
    """Not before the module has looked at its settings."""
    folder = run["trainer.default_root_dir"]
    before = (folder / "config.yaml").read_bytes()
    with pytest.raises(SystemExit):
        main([*arguments("fit", run | {"model.num_tokens": 600}), "--resume=never"])
    assert (folder / "config.yaml").read_bytes() == before


def test_what_may_change_takes_effect_and_is_told(run, caplog):
    folder = run["trainer.default_root_dir"]
    changes = {
        "model.learning_rate": 0.005,
        "trainer.max_steps": 5,
        "seed_everything": 3,
    }
    changes |= {"checkpoint.every_n_steps": 7, "trainer.gradient_clip_val": 0.5, "data.validation_groups": 2}
    main(arguments("fit", run | changes))
    assert resumed_lines(caplog) == [
        "resumed with checkpoint.every_n_steps=7 (was 100)",
        "resumed with data.validation_groups=2 (was 4)",
        "resumed with model.learning_rate=0.005 (was 0.02)",
        "resumed with trainer.gradient_clip_val=0.5 (was 0)",
        "resumed with trainer.max_steps=5 (was 3)",
        "seed_everything=3 (was 0) has no effect on a run that goes on",
    ]
    assert "learning_rate: 0.005" in (folder / "config.yaml").read_text()
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["settings"]["model.learning_rate"] == 0.005
    group = checkpoint["optimizer_states"][0]["param_groups"][0]
    assert group["lr"] == pytest.approx(0.005 * learning_rate_share(5, 5, 0, 0.1))
    caplog.clear()
    main(arguments("fit", run | changes))  # what it now is made with
    assert not resumed_lines(caplog)


def test_what_means_the_same_is_no_change(run, tmp_path, caplog, monkeypatch):
    moved = tmp_path / "moved.txt"
    shutil.copy(run["data.corpus"], moved)
    shutil.copytree(run["model.model"], tmp_path / "copied-model")
    monkeypatch.chdir(tmp_path)
    spelled = {
        "trainer.default_root_dir": "run",
        "model.model": "copied-model",
        "model.dtype": "float32",
        "model.learning_rate": "2e-2",
        "model.init": "lit_cartridges.init.FirstTokens",
        "model.objective": "TopKDistillation",
        "model.betas": "[0.9, 0.999]",
        "data.corpus": "moved.txt",
        "data.source.teacher": "LocalTeacher",
        "data.num_shards": 1,
        "data.uses": 1,
        "trainer.accumulate_grad_batches": 1,
        "trainer.devices": 1,
        "trainer.precision": "32-true",
        "trainer.gradient_clip_algorithm": "norm",
        "trainer.max_epochs": -1,
        "data.source.recording": "run/recording",
        "checkpoint.folder": tmp_path / "run",
    }
    main(arguments("fit", run | spelled | {"trainer.max_steps": 4}))
    assert resumed_lines(caplog) == ["resumed with trainer.max_steps=4 (was 3)"]


class Rates(L.Callback):
    """The learning rate of every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.fixture(scope="module")
def started(tmp_path_factory, model_folder):
    """A run in Python of one step on a recording: its corpus, its recording, its checkpoint."""
    folder = tmp_path_factory.mktemp("started")
    corpus = save_corpus(folder / "corpus.txt")
    recorded = save_recording(folder / "recorded.parquet", corpus=corpus)
    at = folder / "at.ckpt"
    fit(folder, new_module(model_folder), from_recording(corpus, recorded), SaveAt(1, at), max_steps=1)
    return corpus, recorded, at


def test_a_new_schedule_holds_from_the_next_step_on(tmp_path, model_folder, started):
    corpus, recorded, at = started
    rates = Rates()
    module = new_module(model_folder, learning_rate=0.01, warmup_steps=2, final_lr_share=0.5)
    fit(tmp_path, module, from_recording(corpus, recorded), rates, ckpt_path=at, max_steps=20)
    assert rates.rates == [0.01 * learning_rate_share(step, 20, 2, 0.5) for step in range(1, 20)]


@pytest.mark.parametrize(
    ("change", "message", "known_early"),
    [
        (
            {"objective": NextToken()},
            "model.objective='TopKDistillation', and this run has 'NextToken'",
            False,
        ),
        ({"betas": (0.5, 0.9)}, r"model.betas=\[0.9, 0.999\], and this run has \[0.5, 0.9\]", True),
    ],
    ids=["fit(ckpt_path)", "trainer.ckpt_path"],
)
def test_a_checkpoint_given_in_python_is_compared_too(
    tmp_path, model_folder, started, change, message, known_early
):
    corpus, recorded, at = started
    trainer = new_trainer(tmp_path, max_steps=6)
    if known_early:
        trainer.ckpt_path = at
    module = new_module(model_folder, **change)
    with pytest.raises(ResumeError, match=message):
        path = None if known_early else at
        trainer.fit(module, from_recording(corpus, recorded), ckpt_path=path, weights_only=True)
    assert (module.student is None) == known_early


def test_a_checkpoint_may_be_scored_with_other_settings_of_training(tmp_path, model_folder, started):
    corpus, recorded, at = started
    module, data = (
        new_module(model_folder, betas=(0.5, 0.9), dtype="float16"),
        from_recording(corpus, recorded, validation=recorded),
    )
    trainer = new_trainer(tmp_path)
    trainer.validate(module, data, ckpt_path=at, weights_only=True, verbose=False)
    assert torch.isfinite(trainer.callback_metrics["val/loss"])


def test_a_recording_is_known_by_its_content(tmp_path, model_folder, started):
    corpus, recorded, at = started
    copy = shutil.copy(recorded, tmp_path / "copy.parquet")
    fit(tmp_path, new_module(model_folder), from_recording(corpus, copy), ckpt_path=at, max_steps=2)
    with pytest.raises(ResumeError, match="data.source='Recorded', and this run has 'SelfStudy'"):
        fit(tmp_path, new_module(model_folder), new_data(corpus), ckpt_path=at)


@pytest.mark.parametrize("known", ["betas", "learning_rate"])
def test_a_run_of_version_0_1_goes_on_and_is_told_what_could_not_be_compared(
    tmp_path, model_folder, started, caplog, known
):
    corpus, recorded, at = started
    checkpoint = torch.load(at, weights_only=True)
    del checkpoint["settings"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    change = {"betas": (0.5, 0.9)} if known == "betas" else {"learning_rate": 0.01, "objective": NextToken()}
    again = (tmp_path, new_module(model_folder, **change), from_recording(corpus, recorded))
    if known == "betas":
        with pytest.raises(ResumeError, match=r"model.betas=\[0.9, 0.999\]"):
            fit(*again, ckpt_path=tmp_path / "old.ckpt", max_steps=2)
    else:
        fit(*again, ckpt_path=tmp_path / "old.ckpt", max_steps=2)
        assert "is of lit_cartridges 0.1, which did not keep a run's settings" in caplog.text
        assert "resumed with model.learning_rate=0.01 (was 0.05)" in caplog.text


def test_an_option_of_a_refused_class_is_not_told_beside_it():
    then = {"model.init": "RandomVectors", "model.init.std": 1.0}
    now = {"model.init": "my.Vectors", "model.init.std": 0.5}
    with pytest.raises(ResumeError) as refused:
        accept({"settings": then}, now, training=True, tells=True)
    assert "model.init='RandomVectors'" in str(refused.value) and "std" not in str(refused.value)


@pytest.mark.parametrize(
    ("then", "now", "alike"),
    [
        (1, 1.0, True),
        ([0.9, 0.999], [0.9, 0.99], False),
        ({"is": "a" * 64, "as": "x.txt"}, {"is": "a" * 64, "as": "y.txt"}, True),
        ({"is": "a" * 64, "as": "x.txt"}, {"is": "b" * 64, "as": "x.txt"}, False),
        ({"is": "org/model", "as": "org/model"}, {"is": "org/other", "as": "org/other"}, False),
        ("recordings", "other", False),
        (None, {"is": "a", "as": "x"}, False),
        ("zero\0byte", "w" * 10_000, False),
    ],
)
def test_values_are_compared_by_what_they_mean(then, now, alike):
    assert same(then, now) is alike


def test_long_values_are_shown_where_they_differ():
    old, new = shown("w" * 500 + " the end", "w" * 500 + " another end")
    assert "the end" in old and "another end" in new and max(len(old), len(new)) < 80
