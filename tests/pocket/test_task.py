"""Corpus and questions of a world agree when they are given the same arguments."""

from __future__ import annotations

import pytest

from lit_cartridges.corpora.corpus import CorpusError
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.pocket import World
from lit_cartridges.pocket.corpus import WorldCorpus
from lit_cartridges.pocket.questions import read
from lit_cartridges.pocket.task import PocketQuestions
from lit_cartridges.pocket.tokenizer import build_tokenizer

SAME = {"seed": 3, "num_tokens": 400, "index": 1, "part": (1, 2), "held_out": True}


def test_the_corpus_is_the_worlds_text():
    corpus = WorldCorpus(**SAME)
    text = World(3, held_out=True, part=(1, 2)).corpus(400, 1)
    assert corpus.text == text.text
    assert len(corpus.token_ids(build_tokenizer())) == text.num_tokens
    assert corpus.sha256 != WorldCorpus(**(SAME | {"index": 0})).sha256


def test_the_questions_are_about_that_corpus():
    task = PocketQuestions(**SAME, num_questions=25)
    text = WorldCorpus(**SAME).pocket_text
    questions = task.questions()
    assert len(questions) == 25 and task.questions() == questions
    for question in questions:
        asked = read(question.prompt, text)
        assert asked is not None and asked.values == question.values and asked.answer == question.answer
    other = PocketQuestions(**(SAME | {"index": 0})).questions()
    assert {q.prompt for q in other} != {q.prompt for q in questions}


def test_a_reply_must_state_the_values_and_no_others():
    task = PocketQuestions(**SAME, num_questions=25)
    first = task.questions()[0]
    other = next(q for q in task.questions() if q.values != first.values)
    assert task.is_right(first, first.answer) and task.is_right(first, first.values[0])
    assert not task.is_right(first, other.answer) and not task.is_right(first, "")
    assert not task.is_right(first, f"{first.answer} {other.values[0]}")


def test_two_parts_share_no_name():
    prompts = [
        {word for q in PocketQuestions(**(SAME | {"part": (i, 2)})).questions() for word in q.prompt.split()}
        for i in range(2)
    ]
    names = set(World(3).names)
    assert not prompts[0] & prompts[1] & names and prompts[0] & names


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_questions": 0}, SettingError, "num_questions=0"),
        ({"num_tokens": 4}, EvalError, "num_tokens=4: so short a corpus states no fact"),
        ({"num_tokens": 0}, SettingError, "num_tokens=0 must be at least 1"),
        ({"part": (2, 2)}, CorpusError, "part=.* must be"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        PocketQuestions(**(SAME | settings))
