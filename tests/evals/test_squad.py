"""SQuAD's layout: questions, any of whose answers will do, and the articles that they are about."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from lit_cartridges.evals import EvalError, Squad, SquadCorpus

_TEXT = "The mill of Oskar Blum burnt down in 1887. It was rebuilt by his daughter."


def _asked(question: str, *answers: str) -> dict:
    places = [{"text": answer, "answer_start": _TEXT.index(answer)} for answer in answers]
    return {"id": question, "question": question, "answers": places}


def _article(title: str, *asked: dict) -> dict:
    return {"title": title, "paragraphs": [{"context": _TEXT, "qas": list(asked)}]}


CONTENT = {
    "version": "1.1",
    "data": [
        _article("Oskar_Blum", _asked("When did it burn?", "1887", "in 1887"), _asked("And in 1890?")),
        _article("Daughters", _asked("Who rebuilt it?", "his daughter"), _asked("Whose?", "Oskar Blum")),
    ],
}


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CONTENT))
    return path


def test_questions_are_those_of_the_chosen_articles_and_have_an_answer(file):
    assert [q.prompt for q in Squad(path=file).questions()] == [
        "When did it burn?",
        "Who rebuilt it?",
        "Whose?",
    ]
    task = Squad(path=file, articles=["Oskar_Blum"])
    (question,) = task.questions()
    assert (question.answer, question.values) == ("1887", ("1887", "in 1887"))
    assert task.is_right(question, "That was in 1887.") and not task.is_right(question, "In 18870.")
    assert task.describe() == "Squad tiny.json"


def test_any_of_the_answers_is_right(file):
    (question,) = Squad(path=file, articles=["Oskar_Blum"]).questions()
    other = type(question)(prompt=question.prompt, answer="1887", values=("1887", "the year of the flood"))
    assert Squad(path=file).is_right(other, "In the year of the flood")


def test_the_corpus_has_the_paragraphs_of_the_chosen_articles(file):
    assert [d.name for d in SquadCorpus(path=file).documents()] == ["Oskar_Blum", "Daughters"]
    corpus = SquadCorpus(path=file, articles=["Daughters"])
    assert corpus.text == f"Daughters\n\n{_TEXT}"


def _without(*path: object) -> object:
    content = copy.deepcopy(CONTENT)
    *way, last = path
    inner: object = content
    for key in way:
        inner = inner[key]  # type: ignore[index]
    del inner[last]  # type: ignore[attr-defined]
    return content


def _moved() -> object:
    content = copy.deepcopy(CONTENT)
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += 1  # type: ignore[index]
    return content


@pytest.mark.parametrize(
    ("content", "articles", "message"),
    [
        ([], None, "the file has no list 'data'"),
        ({"data": []}, None, "holds no articles"),
        (_without("data", 1, "title"), None, r"data\[1\] has no text 'title'"),
        (
            _without("data", 1, "paragraphs", 0, "context"),
            None,
            r"data\[1\].paragraphs\[0\] has no text 'context'",
        ),
        (
            _without("data", 0, "paragraphs", 0, "qas", 1, "question"),
            None,
            r"qas\[1\] has no text 'question'",
        ),
        (_without("data", 0, "paragraphs", 0, "qas", 0, "answers"), None, r"qas\[0\] has no list 'answers'"),
        (_moved(), None, r"an answer of data\[0\].* does not stand in the context"),
        (CONTENT, ["Nobody"], r"articles=\['Nobody'\] are not in .*it has Oskar_Blum, Daughters"),
        (CONTENT, [], r"articles=\[\]: name some of Oskar_Blum"),
    ],
)
def test_a_file_of_another_layout_is_told_where_it_differs(tmp_path, content, articles, message):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(EvalError, match=message):
        Squad(path=path, articles=articles)
