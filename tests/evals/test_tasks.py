"""Tasks and their files: questions, grading, and what a bad file is told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lit_cartridges.errors import SettingError
from lit_cartridges.evals.tasks.choices import chosen_letter
from lit_cartridges.evals.tasks.longhealth import LongHealth, LongHealthCorpus
from lit_cartridges.evals.tasks.question_file import QuestionFile
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion
from tests.evals.words import WordTask

OPTIONS = ("Aspirin", "Insulin", "Ramipril", "Metformin", "None of them")


@pytest.mark.parametrize(
    ("answer", "reply", "right"),
    [
        ("New York", "new york.", True),
        ("New York", "It was  New\nYork, I think", True),
        ("New York", "New Yorkshire", False),
        ("York", "New", False),
        ("42", "142", False),
        ("42", "It is 42!", True),
        ("+", " + ", True),
        ("+", "-", False),
    ],
)
def test_the_usual_grading(answer, reply, right):
    assert WordTask().is_right(EvalQuestion(prompt="?", answer=answer), reply) is right


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("C", "C"),
        ("(b)", None),
        ("(B)", "B"),
        ("**D**", "D"),
        ("C) Ramipril", "C"),
        ("The answer is C.", "C"),
        ("Answer: **E**", "E"),
        ("First I thought option A. But the right option is D", "D"),
        ("A patient like this takes Insulin.", "B"),
        ("A is right", "A"),
        ("ramipril", "C"),
        ("Ramipril or Insulin", None),
        ("H", None),
        ("Because", None),
        ("", None),
    ],
)
def test_the_chosen_option(reply, letter):
    assert chosen_letter(reply, OPTIONS) == letter
    question = EvalQuestion(prompt="?", answer="C", choices=OPTIONS)
    assert WordTask().is_right(question, reply) is (letter == "C")


def test_questions_are_picked_at_even_distances():
    task = WordTask(num_questions=10)
    assert task.pick(5) == task.questions()[::2]
    assert task.pick(None) == task.pick(99) == task.questions()


def test_a_file_of_lines_and_a_list_are_the_same(tmp_path):
    records = [{"q": "Who?", "a": "Mira\u2028!"}, {"q": "When?", "a": 1912}]
    lines, whole = tmp_path / "x.jsonl", tmp_path / "x.json"
    lines.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n\n", encoding="utf-8")
    whole.write_text(json.dumps(records))
    options = {"question_field": "q", "answer_field": "a"}
    expected = [
        EvalQuestion(prompt="Who?", answer="Mira\u2028!"),
        EvalQuestion(prompt="When?", answer="1912"),
    ]
    assert list(QuestionFile(path=lines, **options).questions()) == expected
    assert list(QuestionFile(path=whole, **options).questions()) == expected
    assert list(QuestionFile(path=str(lines), limit=1, **options).questions()) == expected[:1]


@pytest.mark.parametrize("answer", ["B", "Insulin"])
def test_options_of_a_file(tmp_path, answer):
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"question": "What?", "answer": answer, "choices": OPTIONS}))
    (question,) = QuestionFile(path=file).questions()
    assert question.answer == "B" and question.choices == OPTIONS
    assert question.prompt.splitlines()[:3] == ["What?", "A) Aspirin", "B) Insulin"]


GOOD = '{"question": "a", "answer": "b"}'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", f"{GOOD}\n\n{{oops\n", "line 3 is no JSON"),
        (
            "x.jsonl",
            f'{GOOD}\n{{"question": "a", "reply": "b"}}',
            "line 2 has no text under answer_field='answer'.*reply",
        ),
        ("x.jsonl", '{"question": " ", "answer": "b"}', "line 1 has no text under question_field='question'"),
        ("x.jsonl", "3", "line 1 has no text under question_field='question'; it holds int"),
        ("x.json", GOOD, "must hold a list of questions, got dict"),
        ("x.json", "[", "the file is no JSON"),
        (
            "x.jsonl",
            '{"question": "a", "answer": "Z", "choices": ["b", "c"]}',
            "line 1 has the answer 'Z'.*letters AB",
        ),
        ("x.jsonl", '{"question": "a", "answer": "b", "choices": ["b"]}', "line 1 must have 2 to 10 options"),
        (
            "x.jsonl",
            '{"question": "a", "answer": "b", "choices": {"b": 1}}',
            "line 1 must have 2 to 10 options",
        ),
        ("x.jsonl", '{"question": "a", "answer": "b", "choices": ["b", null]}', "option .* no number: None"),
        (
            "x.jsonl",
            '{"question": "a", "answer": "b", "choices": ["b", ["c"]]}',
            "option .* no number: a list",
        ),
        (
            "x.jsonl",
            '{"question": "a", "answer": "b", "choices": ["b", Infinity]}',
            "option .* no number: inf",
        ),
        ("x.jsonl", '{"question": "a", "answer": NaN}', "line 1 has no text under answer_field"),
        ("x.jsonl", '{"question": "a", "answer": null}', "line 1 has no text under answer_field"),
        ("x.jsonl", '{"question": "\\ud800", "answer": "a"}', "line 1 has no text under question_field"),
        ("x.jsonl", '{"question": ["a"], "answer": "a"}', "line 1 has no text under question_field"),
        ("x.jsonl", f"{GOOD}\n" + "[" * 100_000, "line 2 is no JSON .*nested too deeply"),
        ("x.json", "9" * 5000, "the file is no JSON .*limit"),
    ],
)
def test_a_bad_file_is_told_where(tmp_path, name, text, message):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(EvalError, match=message) as caught:
        QuestionFile(path=file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_or_foreign_file(tmp_path):
    with pytest.raises(SettingError, match="no such file"):
        QuestionFile(path=tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvalError, match="cannot be read as UTF-8"):
        QuestionFile(path=tmp_path / "x.jsonl")
    with pytest.raises(SettingError, match="limit=0"):
        QuestionFile(path=tmp_path / "x.jsonl", limit=0)
    (tmp_path / "x.jsonl").write_text("\n")
    with pytest.raises(EvalError, match=r"task=QuestionFile x\.jsonl gives no questions"):
        QuestionFile(path=tmp_path / "x.jsonl").pick()


def benchmark(correct: str = "Ramipril") -> dict:
    def patient(name: str) -> dict:
        question = {f"answer_{letter}": option for letter, option in zip("abcde", OPTIONS, strict=True)}
        return {
            "name": name,
            "birthday": "1950-01-02",
            "diagnosis": "hypertension",
            "texts": {"text_0": f"{name} came in.", "text_1": "And went."},
            "questions": [{"No": 0, "question": "Which drug?", **question, "correct": correct}],
        }

    return {"patient_01": patient("Ann"), "patient_02": patient("Bo"), "canary": "a string"}


PATIENT = benchmark()["patient_02"]


def test_longhealth_asks_about_the_patients_of_its_corpus(tmp_path):
    file = tmp_path / "benchmark_v5.json"
    file.write_text(json.dumps(benchmark()))
    task = LongHealth(path=file, patients=["patient_02"])
    (question,) = task.questions()
    assert question.answer == "C" and question.choices == OPTIONS
    assert "Bo" in question.prompt and "1950-01-02" in question.prompt and "C) Ramipril" in question.prompt
    assert task.is_right(question, "C") and not task.is_right(question, "Insulin")
    corpus = LongHealthCorpus(path=file, patients=["patient_02"])
    assert "Bo came in." in corpus.text and "And went." in corpus.text and "Ann" not in corpus.text
    assert len(LongHealth(path=file).questions()) == 2
    assert [d.name for d in LongHealthCorpus(path=file).documents()][::2] == [
        "patient_01/text_0",
        "patient_02/text_0",
    ]


def test_longhealth_as_cartridges_asks_it(tmp_path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps(benchmark()))
    task = LongHealth(path=file, patients=["patient_01"], style="cartridges")
    (question,) = task.questions()
    assert "\n".join(OPTIONS) in question.prompt and "A)" not in question.prompt
    assert "ID patient_01, Name: Ann" in question.prompt and "{{YOUR_THOUGHT_PROCESS}}" in question.prompt
    assert question.answer == "<answer>\nRamipril\n</answer>" and question.group == "patient_01"
    for reply, right in (
        ("<think> Insulin? </think>\n<answer>\nramipril.\n</answer>", True),
        ("<answer>The drug ramiprill</answer><answer>Insulin</answer>", True),
        ("<answer>insulin</answer>", False),
        ("It is Ramipril", False),
    ):
        assert task.is_right(question, reply) is right, reply
    first = LongHealth(path=file, style="cartridges")
    assert first.is_right(replace(question, values=("A",)), "no tags at all"), "without tags it is option A"


def test_longhealth_as_attention_matching_asks_it(tmp_path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps(benchmark()))
    task = LongHealth(path=file, patients=["patient_01"], style="attention_matching")
    (question,) = task.questions()
    assert "\n\nA. " in question.prompt and "\nC. Ramipril\n" in question.prompt
    assert "\n\nPlease think step by step" in question.prompt and "(A, B, C, D, or E)" in question.prompt
    for reply, right in (
        ("<think>A or B</think>\n\nThe answer is C", True),
        ("<think>It is C", False),
        ("A first line.\n\nC\n", True),
        ("Answer: **C**", True),
        ("Between B and C", True),
        ("C. The record tells of B too", True),
        ("c", True),
        ("The answer is difficult: C", True),
        ("C, no: the correct option is B", False),
        ("I do not know", False),
        ("", False),
    ):
        assert task.is_right(question, reply) is right, reply


def test_the_panel_holds_every_note(tmp_path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps(benchmark()))
    text = LongHealthCorpus(path=file, layout="panel").text
    assert text.startswith("Below is a panel of patient records.\n\n<patient-record-patient_01>\n")
    assert text.count("panel of") == 1 and "<text_1>\nAnd went.\n</text_1>" in text


@pytest.mark.parametrize("correct", ["C", "answer_c"])
def test_longhealth_names_the_right_option_by_text_or_letter(tmp_path, correct):
    file = tmp_path / "x.json"
    file.write_text(json.dumps(benchmark(correct)))
    assert LongHealth(path=file).questions()[0].answer == "C"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("[]", {}, "it holds no patients"),
        ('{"patient_01": {"name": "Ann"}}', {}, "patient_01 has no birthday"),
        ("{", {}, "cannot be read"),
        (
            None,
            {"patients": ["patient_09"]},
            r"patients=\['patient_09'\] are not in .*it has patient_01, patient_02",
        ),
        (
            json.dumps(benchmark("Water")),
            {},
            "x.json'?: patient_01, question 0: the right answer 'Water' is none",
        ),
        (
            json.dumps(benchmark() | {"patient_02": {**PATIENT, "texts": ["a"]}}),
            {},
            "patient_02 has no texts",
        ),
        (json.dumps(benchmark() | {"patient_02": {**PATIENT, "name": 3}}), {}, "patient_02 has no name"),
        (json.dumps(benchmark() | {"patient_02": {**PATIENT, "texts": {"a": None}}}), {}, "are no texts"),
        (
            json.dumps(benchmark() | {"patient_02": {**PATIENT, "questions": [3]}}),
            {},
            "question 0 is no object",
        ),
        ("[" * 100_000, {}, "nested too deeply"),
        ('{"patient_01": "\\ud800"}', {}, "half a surrogate pair"),
    ],
)
def test_a_file_that_is_not_longhealths(tmp_path, content, options, message):
    file = tmp_path / "x.json"
    file.write_text(json.dumps(benchmark()) if content is None else content)
    with pytest.raises(EvalError, match=message):
        LongHealth(path=file, **options)
