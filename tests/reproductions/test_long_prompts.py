"""Prompts as long as books, on a tiny model and miniatures of the data."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.evals.systems.system import prefilled
from lit_cartridges.evals.tasks.longbench import LONGBENCH_TASKS
from lit_cartridges.generation import greedy
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.reproductions import long_prompts, reproduce
from lit_cartridges.reproductions.tables.booksum import BookSum
from lit_cartridges.reproductions.tables.longbench import LongBench
from lit_cartridges.text.scores import rouge
from tests.tiny_models import VOCAB
from tests.tiny_run import save_model, words

TASKS = ("hotpotqa", "gov_report")
EVERY_WORD = " ".join(f"w{i}" for i in range(VOCAB))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("longbench"), np.random.default_rng(0)
    for task in TASKS:
        samples = [
            {"context": words(60, rng), "input": words(3, rng), "answers": ["nothing", EVERY_WORD]}
            for _ in range(2)
        ]
        (folder / f"{task}.jsonl").write_text("\n".join(map(json.dumps, samples)))
    books = [{"text": words(50, rng), "summary": words(9, rng)} for _ in range(2)]
    (folder / "books.jsonl").write_text("\n".join(map(json.dumps, books)))
    model = save_model(folder / "model")
    return {"folder": folder, "own": {"model": model, "sink_tokens": 2, "stride_tokens": 16, "cascades": 2}}


def test_longbench_scores_each_task_and_their_mean(given, tmp_path, monkeypatch):
    for task in TASKS:
        monkeypatch.setitem(LONGBENCH_TASKS, task, replace(LONGBENCH_TASKS[task], max_new_tokens=6))
    settings = {**given["own"], "path": given["folder"], "tasks": TASKS}
    result = reproduce(LongBench(**settings), tmp_path, device="cpu")
    found = {(one.row, one.column): one for one in result.figures}
    for system in ("cascade", "streaming_llm", "truncated", "dense"):
        means = [found[system, task].mean for task in TASKS]
        assert found[system, "mean"].mean == pytest.approx(np.mean(means))
        assert found[system, "mean"].standard_error is not None and found[system, "mean"].num_questions == 4
    percent, base = found["cascade", "mean, % above streaming_llm"], found["streaming_llm", "mean"].mean
    assert percent.mean == pytest.approx(100 * (found["cascade", "mean"].mean / base - 1))

    for cell in (tmp_path / "cells").iterdir():
        cell.unlink()
    monkeypatch.setattr(long_prompts, "load_model", None)  # the replies are still known
    again = reproduce(LongBench(**settings), tmp_path, device="cpu")
    assert [one.mean for one in again.figures] == [one.mean for one in result.figures]


def test_dense_is_the_plain_model_and_the_cascade_has_a_share_of_the_prompt(given, tmp_path):
    table = BookSum(**given["own"], path=given["folder"] / "books.jsonl", max_new_tokens=6)
    table.folder, table.device = tmp_path, "cpu"
    model, tokenizer = load_model(given["own"]["model"]), load_tokenizer(given["own"]["model"])
    renderer = ChatRenderer(tokenizer, system_template=BookSum.system_template)
    for prompt, reply, _ in table.replies("dense", "books"):
        ids = renderer.context_ids([]) + renderer.prompt_ids([user(prompt.text)])
        stops = renderer.stop_token_ids(model.generation_config)
        rows = model.generate(torch.tensor([ids]), generation_config=greedy(stops, 6))
        assert reply == renderer.text(rows[0, len(ids) :].numpy())
        # 32 is the power of two below half of 70 tokens
        assert table.options(len(ids)).total_tokens == 2 + 32
    read, last = table._read("truncated", list(range(10, 80)), 6)
    assert read.num_kv_tokens == 33 and last == 79
    whole = prefilled(
        model, [*range(10, 27), *range(63, 79)], "its first and last tokens, as many as the cache"
    )
    torch.testing.assert_close(read.keys[0], whole.keys[0])
    cascade, last = table._read("cascade", list(range(10, 80)), 6)
    assert cascade.num_kv_tokens == 34 and last == 79


def test_booksum_scores_what_was_replied(given, tmp_path):
    table = BookSum(
        **given["own"], path=given["folder"] / "books.jsonl", max_new_tokens=6, systems=("cascade",)
    )
    result = reproduce(table, tmp_path, device="cpu")
    assert [one.column for one in result.figures] == ["ROUGE-1", "ROUGE-2", "ROUGE-L"]
    one = [
        rouge(said, prompt.answers[0], "rouge1", stemmed=True)
        for prompt, said, _ in table.replies("cascade", "books")
    ]
    assert result.figures[0].mean == pytest.approx(100 * np.mean(one))
