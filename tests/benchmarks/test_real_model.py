"""The table of the real model: seeds are averaged within a question before questions are."""

from __future__ import annotations

import pytest

from benchmarks import real_model
from lit_cartridges.evals.result import EvalResult, Reply
from lit_cartridges.evals.result_file import Evaluation


def result(system: str, *divergences: float) -> EvalResult:
    replies = [
        Reply(prompt="?", answer="!", reply="!", right=x < 1, log_likelihood=-x, teacher_divergence=x)
        for x in divergences
    ]
    return EvalResult(
        system=system,
        task="t",
        accuracy=0.5,
        accuracy_standard_error=0.1,
        answer_log_likelihood=-1.0,
        seconds_per_answer=0.1,
        prefill_s=0.0,
        num_kv_tokens=8,
        kv_bytes=8,
        num_questions=len(replies),
        batch_size=1,
        replies=tuple(replies),
    )


FOUND = Evaluation(
    task="t",
    results=(result("a_10x_seed0", 1.0, 3.0), result("a_10x_seed1", 0.0, 2.0), result("icl", 4.0, 4.0)),
)


def test_seeds_are_averaged_within_a_question():
    found = real_model.rows(FOUND, "a_10x", real_model.FIGURES)
    assert found["teacher_divergence"] == pytest.approx((1.5, 1.0)), "of 0.5 and 2.5"
    assert found["log_likelihood"] == pytest.approx((-1.5, 1.0))
    assert found["right"] == pytest.approx((0.25, 0.25))
    assert real_model.rows(FOUND, "icl", real_model.FIGURES)["teacher_divergence"] == (4.0, 0.0)


def test_without_a_text_it_says_so(capsys, tmp_path):
    figures = real_model.main(["--json", str(tmp_path / "figures.json")])
    assert figures["results"] == [] and (tmp_path / "figures.json").is_file()
    assert "nothing is measured without --data" in capsys.readouterr().out
