"""What ``fit`` says at its end."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import lightning as L
import pytest

from lit_cartridges import Cartridge
from lit_cartridges.cli import main
from tests.tiny_run import SEED_PROMPTS, save_corpus, save_model


class StopAt2(L.Callback):
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.should_stop = trainer.global_step >= 2


@pytest.fixture
def options(tmp_path):
    settings = {
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 4,
        "trainer.log_every_n_steps": 1,
        "trainer.default_root_dir": tmp_path / "a run",
        "model.model": save_model(tmp_path / "model"),
        "model.num_tokens": 8,
        "data.corpus": save_corpus(tmp_path / "corpus.txt"),
        "data.source.seed_prompts": json.dumps(SEED_PROMPTS),
        "data.source.min_chunk_tokens": 20,
        "data.source.max_chunk_tokens": 40,
        "data.source.conversations_per_group": 4,
        "data.groups_per_round": 1,
        "data.source.question_temperature": 1.0,
        "data.source.question_max_tokens": 5,
        "data.source.answer_max_tokens": 8,
        "data.source.top_k": 4,
        "data.tokens_per_batch": 40,
    }
    (tmp_path / "questions.jsonl").write_text('{"question": "w1", "answer": "w2"}\n')
    return [f"--{name}={value}" for name, value in settings.items()]


def test_where_the_cartridge_is_its_scores_and_how_to_chat(tmp_path, options, capsys):
    task = {"class_path": "QuestionFile", "init_args": {"path": f"{tmp_path / 'questions.jsonl'}"}}
    evaluation = {"class_path": "LongContextEval", "init_args": {"task": task, "every_n_steps": 2}}
    main(["fit", *options, f"--trainer.callbacks={json.dumps([evaluation])}", "--checkpoint.every_n_steps=1"])
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)
    folder = tmp_path / "a run" / "cartridge"
    assert lines["cartridge"].strip() == f"{folder} (optimizer step 4 of 4)"
    assert re.search(
        r"train/loss [\d.]+; at step 4 eval/cartridge/accuracy [\d.e-]+, eval/icl/acc", lines["scores"]
    )
    assert "standard_error" not in lines["scores"]
    found = re.fullmatch(r"\s+(.*) \(train/loss ([\d.]+)\)", lines["best"])
    assert found is not None
    best = Cartridge.from_pretrained(found[1])
    assert float(found[2]) == pytest.approx(best.provenance.loss, rel=1e-3)
    command = shlex.split(lines["chat"])
    assert command == ["lit-cartridges", "chat", str(folder)]
    assert Cartridge.from_pretrained(command[2]).provenance.steps == 4
    assert "go on" not in lines


def test_a_run_that_stopped_early_says_how_to_go_on(tmp_path, options, capsys):
    main(["fit", *options, "--trainer.callbacks=tests.command_line.test_outcome.StopAt2"])
    printed = capsys.readouterr().out
    assert "(optimizer step 2 of 4)" in printed
    assert "go on:     it stopped 2 steps early; the same command goes on from there" in printed
    main(["fit", *options])
    printed = capsys.readouterr().out
    assert "(optimizer step 4 of 4)" in printed and "go on:" not in printed


def test_a_try_of_a_few_batches_has_written_nothing_to_speak_of(options, capsys):
    main(["fit", *options, "--trainer.fast_dev_run=2"])
    assert "chat:" not in capsys.readouterr().out
