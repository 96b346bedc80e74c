"""A text in the pocket language is read back into the facts it states, and asked about."""

from __future__ import annotations

import pytest

from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.pocket.language import Fact
from lit_cartridges.pocket.pocket_text import read_corpus, read_statement
from lit_cartridges.pocket.text_task import TextQuestions
from lit_cartridges.pocket.vocabulary import NAMES, VALUES
from lit_cartridges.pocket.world import World

NAME, SHIP = NAMES["person"][0], NAMES["ship"][0]
CITY, PET = VALUES["city"][0], VALUES["pet"][0]


@pytest.mark.parametrize("held_out", [False, True])
def test_reading_a_worlds_text_gives_the_worlds_facts_and_places(held_out):
    made = World(3, held_out=held_out).corpus(900)
    read = read_corpus(made.text)
    assert read.spans == made.spans
    assert read.words == made.words


def test_sentences_that_state_nothing_give_no_fact():
    assert read_statement(tuple("the day was long and the wind was cold .".split())) is None
    assert read_statement(tuple(f"what is the city of {NAME} ?".split())) is None
    assert read_statement(tuple(f"the city of {NAME} is {CITY} .".split())) == Fact(NAME, "city", CITY)


def test_of_two_contradicting_statements_the_later_counts():
    other = VALUES["city"][1]
    read = read_corpus(f"the city of {NAME} is {CITY} . {NAME} lives in {other} .")
    assert read.facts == [Fact(NAME, "city", other)]


def test_questions_cover_every_fact_before_any_twice_and_grade_by_value(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(f"the city of {NAME} is {CITY} .\n{NAME} keeps a {PET} .\n")
    task = TextQuestions(path=str(text), num_questions=4)
    values = [question.values for question in task.questions()]
    assert sorted(values[:2]) == sorted(values[2:]) == sorted([(CITY,), (PET,)])
    question = task.questions()[0]
    assert task.is_right(question, question.answer)
    assert not task.is_right(question, question.answer.replace(question.values[0], VALUES["food"][0]))
    assert TextQuestions(path=str(text), num_questions=4).questions() == task.questions()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"the city of {NAME} is Paris .", "does not know: 'Paris'"),
        ("the day was long and the wind was cold .", "states no fact"),
        ("", "states no fact"),
    ],
)
def test_a_text_that_cannot_be_asked_about_says_why(tmp_path, text, told):
    (tmp_path / "text.txt").write_text(text)
    with pytest.raises(EvalError, match=told):
        TextQuestions(path=str(tmp_path / "text.txt"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="path=.*nowhere.txt"):
        TextQuestions(path=str(tmp_path / "nowhere.txt"))
