"""Texts and settings in the loggers that people look at: TensorBoard, and wandb without a network."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_cartridges.callbacks import TextSamples
from lit_cartridges.errors import SettingError
from tests.tiny_run import fit, from_recording, new_module, tokenizer

QUESTIONS = ["w5 w6", "w7"]


@pytest.fixture
def run(tmp_path, model_folder, corpus, recorded):
    """A run of four steps with these loggers; returns its module."""

    def run(*loggers, **options):
        samples = TextSamples(**({"questions": QUESTIONS, "every_n_steps": 2, "max_new_tokens": 4} | options))
        module = new_module(model_folder)
        data = from_recording(corpus, recorded)
        return module, *fit(tmp_path, module, data, samples, logger=list(loggers))

    return run


def texts(folder, name) -> dict[int, str]:
    events = EventAccumulator(str(folder)).Reload()
    return {
        event.step: event.tensor_proto.string_val[0].decode()
        for event in events.Tensors(f"{name}/text_summary")
    }


def test_tensorboard_shows_what_is_trained_on_and_what_the_cartridge_says(tmp_path, run):
    module, _, curve = run(TensorBoardLogger(tmp_path, name="", version=""))
    conversations, replies = (texts(tmp_path, f"samples/{kind}") for kind in ("conversations", "replies"))
    assert set(conversations) == {1, 2, 4} and set(replies) == {0, 2, 4}
    first = curve.batches[0]
    own = tokenizer().decode(first.input_ids[0, : first.lengths[0]].tolist())
    assert all(word in conversations[1] for word in own.split() if word.startswith("w"))
    assert conversations[1].startswith(f"**{first.labels[0]}**")
    chat = module.cartridge.attach(module.student, tokenizer())
    for question in QUESTIONS:
        assert f"**{question}**  \n{chat.chat(question, max_new_tokens=4)}" in replies[4]


def test_the_run_is_the_one_without_them(tmp_path, run):
    with_texts, without = (run(*loggers)[2].losses for loggers in ([TensorBoardLogger(tmp_path)], []))
    assert with_texts == without


def test_nothing_is_made_for_loggers_without_texts(tmp_path, run, monkeypatch):
    monkeypatch.setattr("lit_cartridges.cartridge.Cartridge.attach", None)
    run(CSVLogger(tmp_path))
    with pytest.raises(TypeError):
        run(TensorBoardLogger(tmp_path))


def test_text_of_others_stays_text(tmp_path, run, monkeypatch):
    monkeypatch.setattr("lit_cartridges.attached.AttachedCartridge.chat", lambda *_, **__: "<b>*a*\x1b[2J")
    run(TensorBoardLogger(tmp_path, name="", version=""))
    assert texts(tmp_path, "samples/replies")[0].endswith(r"&lt;b&gt;\*a\*\\x1b\[2J")


def test_wandb_has_texts_figures_and_hyper_parameters(tmp_path, run, monkeypatch):
    import wandb  # seconds, for one test

    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    try:
        run(logger)
        config, summary = dict(logger.experiment.config), dict(logger.experiment.summary)
    finally:
        wandb.finish()
    assert config["model.num_tokens"] == 8 and config["model.learning_rate"] == 0.05
    assert config["compression"] == 120 / 8 and config["data.corpus"].endswith("corpus.txt")
    assert config["model.init"] == "FirstTokens"
    assert torch.isfinite(torch.tensor(summary["train/loss"]))
    [folder] = tmp_path.glob("wandb/offline-run-*")
    tables = [json.loads(path.read_text()) for path in (folder / "files").rglob("*.table.json")]
    replies = [table["data"] for table in tables if table["columns"] == ["question", "reply"]]
    assert len(replies) == 3 and all([row[0] for row in data] == QUESTIONS for data in replies)
    assert sum(table["columns"] == ["kind", "conversation"] for table in tables) == 3


@pytest.mark.parametrize("questions", [["a"] * 6, "why", [" "]])
def test_questions_are_up_to_five(questions):
    with pytest.raises(SettingError, match="questions"):
        TextSamples(questions=questions)


def test_a_question_that_does_not_fit_is_refused_before_the_model_loads(run, monkeypatch):
    monkeypatch.setattr("lit_cartridges.module.lit_cartridge.load_frozen_model", None)
    with pytest.raises(ValueError, match="TextSamples: 8 positions in front and up to .* do not fit"):
        run(max_new_tokens=100_000)
