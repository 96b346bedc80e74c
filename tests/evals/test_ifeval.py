"""The task: its file, its figures, and a system that is asked; and the real file where it is there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lit_cartridges.evals import EvalError, IFEval, evaluate, no_context, text_table
from lit_cartridges.evals.result_file import Evaluation
from tests.evals.words import Answered, word_renderer

REAL = Path(__file__).parents[3] / "shared" / "data" / "ifeval" / "input_data.jsonl"
ROWS = [
    ("w1 w2", {"startend:quotation": {}, "punctuation:no_comma": {}}),
    (
        "w3",
        {"length_constraints:number_words": {"relation": "at least", "num_words": 2, "num_bullets": None}},
    ),
    ("w4 w5 w6", {"detectable_format:title": {}}),
]


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "input_data.jsonl"
    lines = (
        {"key": i, "prompt": prompt, "instruction_id_list": list(rules), "kwargs": list(rules.values())}
        for i, (prompt, rules) in enumerate(ROWS)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_replies_are_right_strictly_and_loosely(file):
    for task, lead_in_counts in ((IFEval(path=file), False), (IFEval(path=file, loose=True), True)):
        first, second, third = task.questions()
        assert first.prompt == "w1 w2" and first.answer is None
        assert task.is_right(first, '"a b"') and not task.is_right(first, '"a, b"')
        assert task.is_right(first, 'Yes:\n"a b"') is lead_in_counts
        assert task.is_right(second, "a b") and not task.is_right(second, "a")
        assert not task.is_right(third, "a")
    assert [one.describe() for one in (IFEval(path=file), task)] == [
        "IFEval input_data.jsonl",
        "IFEval input_data.jsonl loose",
    ]
    assert len(IFEval(path=file, limit=2).questions()) == 2


def test_the_four_figures_and_their_errors_over_prompts(file):
    task = IFEval(path=file)
    found = task.figures(task.questions(), ['So, see:\n"a b"', "one", "<<a>>"])
    # Followed, strictly: neither of 2, 0 of 1, 1 of 1; loosely both of 2.
    assert {name: share for name, (share, _) in found.items()} == {
        "prompts strict": 1 / 3,
        "instructions strict": 1 / 4,
        "prompts loose": 2 / 3,
        "instructions loose": 3 / 4,
    }
    assert found["prompts strict"][1] == pytest.approx(1 / 3)
    # Of the share 1/4 the prompts are off by -1/2, -1/4 and 3/4 instructions.
    expected = math.sqrt(3 / 2 * (1 / 4 + 1 / 16 + 9 / 16)) / 4
    assert found["instructions strict"][1] == pytest.approx(expected)
    alone = IFEval(path=file, limit=1)
    assert alone.figures(alone.questions(), ["a"])["instructions strict"][1] is None


def test_a_system_is_asked_without_reference_answers(llama, file, tmp_path):
    task = IFEval(path=file)
    result = evaluate(llama, word_renderer(), no_context(), task, max_new_tokens=4)
    assert result.answer_log_likelihood is None and "answer_log_likelihood" not in result.metrics
    assert [one.log_likelihood for one in result.replies] == [None] * 3
    replies = [one.reply for one in result.replies]
    measured = {name: (one.mean, one.standard_error) for name, one in result.figures.items()}
    assert measured == task.figures(task.questions(), replies) and any(replies)
    header, _, line = text_table([result]).splitlines()
    assert header.split("  ")[-1].strip() == "instructions loose" and "–" in line
    Evaluation(task=task.describe(), results=(result,)).write(tmp_path / "x.json")
    assert Evaluation.read(tmp_path / "x.json").results == (result,)


def test_a_task_may_have_answers_to_some_of_its_questions(llama):
    both, one = (
        evaluate(llama, word_renderer(), no_context(), Answered(pairs), max_new_tokens=2)
        for pairs in ([("w1", None), ("w2", "w3 w4")], [("w2", "w3 w4")])
    )
    assert both.answer_log_likelihood == pytest.approx(one.answer_log_likelihood, abs=1e-5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", "line 1: it is list and no object"),
        ('{"prompt": " "}', "line 1: it has no text under 'prompt'"),
        ('{"prompt": "a", "instruction_id_list": [], "kwargs": []}', "line 1: 'instruction_id_list' and 'kwargs' must be"),
        ('{"prompt": "a", "instruction_id_list": ["x:y"], "kwargs": []}', "lists of the same length"),
        ('{"prompt": "a", "instruction_id_list": ["x:y"], "kwargs": [{}]}', "instruction 1 is no type of instruction: 'x:y'"),
        ('{"prompt": "a", "instruction_id_list": ["startend:quotation"], "kwargs": [{"a": 1}]}', "instruction 1 startend:quot"),
        ("{", "line 1 is no JSON"),
    ],
)  # fmt: skip
def test_a_bad_file_is_told_where(tmp_path, line, message):
    file = tmp_path / "x.jsonl"
    file.write_text(line)
    with pytest.raises(EvalError, match=message) as caught:
        IFEval(path=file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_without_langdetect_what_needs_it_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_cartridges.optional.find_spec", lambda name: None)
    file = tmp_path / "x.jsonl"
    line = {"prompt": "a", "instruction_id_list": ["change_case:english_capital"], "kwargs": [{}]}
    file.write_text(json.dumps(line))
    with pytest.raises(ImportError, match="langdetect is not installed; pip install"):
        IFEval(path=file)


@pytest.mark.skipif(
    not REAL.is_file(), reason="IFEval's file is not beside the repository: shared/data/ifeval"
)
def test_the_real_file_is_understood():
    task = IFEval(path=REAL)
    asked = task.questions()
    rules = [rule for one in asked for rule in one.instructions]
    assert (len(asked), len(rules), len({rule.type for rule in rules})) == (541, 834, 25)
    assert len({one.prompt for one in asked}) == 541
    repeated = task.figures(asked, [one.prompt for one in asked])
    assert 0 < repeated["prompts strict"][0] < repeated["instructions strict"][0] < 1
