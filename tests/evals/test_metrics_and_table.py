"""Figures add up over batches and processes, and are shown aligned."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from lit_cartridges.evals.metrics import AnswerLogLikelihood, SecondsPerAnswer, ShareRight
from lit_cartridges.evals.result import EvalResult, Reply
from lit_cartridges.evals.statistics import Mean, share_error, with_error
from lit_cartridges.evals.table import bytes_text, text_table


def test_metrics_are_those_of_all_batches_together():
    right, likelihood, seconds = ShareRight(), AnswerLogLikelihood(), SecondsPerAnswer()
    for batch in ([1, 0, 1], [1, 1]):
        right.update(torch.tensor(batch))
        likelihood.update(torch.tensor([-0.5] * len(batch) if len(batch) == 3 else [-3.0]))
        seconds.update(0.25 * len(batch) ** 2, len(batch))
    share, error = right.compute()
    assert share.item() == pytest.approx(0.8)
    assert error.item() == pytest.approx(math.sqrt(0.8 * 0.2 / 5))
    assert likelihood.compute().item() == pytest.approx(-4.5 / 4), "every token counts alike"
    assert seconds.compute().item() == pytest.approx(3.25 / 5)


def test_metrics_of_processes_are_summed():
    for metric in (ShareRight(), AnswerLogLikelihood(), SecondsPerAnswer()):
        assert metric._defaults and all(
            reduce.__name__ == "dim_zero_sum" for reduce in metric._reductions.values()
        )


def result(system: str, **figures) -> EvalResult:
    usual = {
        "task": "t",
        "accuracy": 0.5,
        "accuracy_standard_error": 0.25,
        "answer_log_likelihood": -1.5,
        "seconds_per_answer": 0.01,
        "prefill_s": 0.0,
        "num_kv_tokens": 1500,
        "kv_bytes": 2_300_000,
        "num_questions": 4,
        "batch_size": 2,
    }
    return EvalResult(system=system, **(usual | figures))


def test_the_table_is_aligned():
    lines = text_table(
        [result("icl"), result("a cartridge", num_kv_tokens=9)], extra={"trained": ["", "12 s"]}
    ).split("\n")
    assert len(lines) == 4
    ends = [
        line.index(cell) + len(cell)
        for line, cell in zip(lines, ("KV positions", "", "1,500", "9"), strict=True)
    ]
    assert ends[0] == ends[2] == ends[3]
    assert "0.500 ± 0.250" in lines[2] and "2.3 MB" in lines[2]
    assert lines[0].endswith("trained") and lines[3].endswith("12 s")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (5 * 10**12, "5.0 TB")],
)
def test_bytes(size, text):
    assert bytes_text(size) == text


def test_a_result_is_plain_json():
    reply = Reply(prompt="?", answer="a", reply="b", right=False, log_likelihood=-2.0)
    content = json.loads(json.dumps(result("x", replies=(reply,)).as_dict()))
    assert content["replies"][0]["reply"] == "b" and content["system"] == "x"
    assert "replies" not in result("x").as_dict(with_replies=False)


def test_means_are_written_with_their_errors_as_far_as_they_have_any():
    values = [0.25, 0.5, 1.0, None]
    mean = Mean.of(values)
    assert mean.standard_error == pytest.approx(np.std(values[:3], ddof=1) / math.sqrt(3))
    assert with_error(mean, "{:.2f}") == "0.58 ± 0.22"
    assert with_error(Mean.of([0.5]), "{:.1f}") == "0.5"
    assert with_error(Mean.of([]), "{:.1f}") == with_error(None, "{:.1f}") == "–"


def test_the_error_of_a_share_is_that_of_its_replies():
    replies = np.random.default_rng(0).random((20_000, 50)) < 0.3
    assert share_error(0.3, 50) == pytest.approx(replies.mean(1).std(), rel=0.02)
