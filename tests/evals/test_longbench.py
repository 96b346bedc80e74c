"""LongBench's files: a miniature in their layout, and what is refused."""

from __future__ import annotations

import json

import pytest

from lit_cartridges.evals.tasks.longbench import LONGBENCH_TASKS, longbench_samples
from lit_cartridges.evals.tasks.task import EvalError

RECORD = {"context": "w1 {input} w2", "input": "w3 ?", "answers": ["w4", "w5"], "length": 3}


def write(path, *records):
    path.write_text("\n".join(json.dumps(one) for one in records) + "\n")
    return path


def test_a_prompt_holds_the_text_and_the_question_as_they_stand(tmp_path):
    file = write(tmp_path / "hotpotqa.jsonl", RECORD)
    prompts = write(tmp_path / "prompts.json", {"hotpotqa": "{{A}} {context} B {input}"})
    [sample] = longbench_samples(file, "hotpotqa", prompts)
    assert sample.prompt == "{{A}} w1 {input} w2 B w3 ?" and sample.answers == ("w4", "w5")
    [own] = longbench_samples(file, "hotpotqa")
    assert "w1 {input} w2" in own.prompt and "Question: w3 ?" in own.prompt


def test_questions_and_summaries_have_scores_and_lengths_of_their_own():
    assert LONGBENCH_TASKS["2wikimqa"].max_new_tokens == 32
    assert LONGBENCH_TASKS["gov_report"].max_new_tokens == 512
    assert (
        LONGBENCH_TASKS["qasper"].score("b a", "a b")
        == 1.0
        > LONGBENCH_TASKS["multi_news"].score("b c", "c b")
    )


@pytest.mark.parametrize(
    "record", [{**RECORD, "answers": []}, {**RECORD, "answers": "w4"}, {"context": "w1"}, [1]]
)
def test_other_layouts_are_refused_by_their_line(tmp_path, record):
    file = write(tmp_path / "qasper.jsonl", RECORD, record)
    with pytest.raises(EvalError, match="line 2 has no texts under context, input and answers"):
        longbench_samples(file, "qasper")


@pytest.mark.parametrize("content", [{"qasper": "no place"}, {"other": "{context}"}, [1]])
def test_a_file_without_the_prompt_is_refused(tmp_path, content):
    file = write(tmp_path / "qasper.jsonl", RECORD)
    with pytest.raises(EvalError, match=r"prompts=.*holds no prompt for qasper"):
        longbench_samples(file, "qasper", write(tmp_path / "prompts.json", content))
