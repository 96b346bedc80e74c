"""Texts with two halves, questions that need both, and the comparison of teachers that is made with them."""

from __future__ import annotations

import json
import random

import pytest

from lit_cartridges.conversations.conversation import Conversation, Message
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.pocket.language import STATEMENTS, state
from lit_cartridges.pocket.questions import ask_list, read
from lit_cartridges.pocket.tokenizer import unknown_words
from lit_cartridges.pocket.two_places import TwoPlacesCorpus, TwoPlacesQuestions, TwoPlacesWorld
from lit_cartridges.pocket.world import World
from pocket_lab.compare_teachers import TEACHERS, TaughtRun, conversation_figures, table

SAME = {"seed": 3, "num_tokens": 600}


@pytest.mark.parametrize("num_tokens", [600, 1500, 3000])
def test_every_fact_is_told_in_one_half_and_a_name_in_both(num_tokens):
    text = TwoPlacesWorld(4, held_out=True).corpus(num_tokens)
    assert num_tokens - 24 <= len(text.words) == text.num_tokens <= num_tokens
    assert unknown_words(text.text) == []
    sides: dict[str, set[bool]] = {}
    for fact, spans in text.spans.items():
        for start, end in spans:
            assert list(text.words[start:end]) in [state(fact, t) for t in STATEMENTS[fact.attribute]]
        late = {start >= text.seam for start, _ in spans}
        assert late == {text.is_late(fact)}
        sides.setdefault(fact.name, set()).update(late)
    assert sum(len(found) == 2 for found in sides.values()) > 0.6 * len(sides)
    assert 12 <= num_tokens / len(text.facts) <= 26, "as dense as a plain world's text"


def test_the_halves_are_far_apart_and_a_seed_decides_everything():
    text, again = (TwoPlacesWorld(4).corpus(1500) for _ in range(2))
    assert (
        text == again and text != TwoPlacesWorld(5).corpus(1500) and text != TwoPlacesWorld(4).corpus(1500, 1)
    )
    assert text != World(4).corpus(1500)
    task = TwoPlacesQuestions(seed=4, num_tokens=1500, held_out=False)
    apart = [abs(text.spans[a][0][0] - text.spans[b][0][0]) for a, b in task._pairs]
    assert sum(apart) / len(apart) > 500


def test_more_than_its_names_fill_is_refused():
    with pytest.raises(ValueError, match="num_tokens=40000 is more than 200 names fill"):
        TwoPlacesWorld(4).corpus(40_000)


def test_two_facts_are_asked_for_one_of_each_half():
    task = TwoPlacesQuestions(**SAME, num_questions=60)
    text = TwoPlacesCorpus(**SAME).pocket_text
    asked = [read(question.prompt, text) for question in task.questions()]
    assert len(asked) == 60 and task.questions() == TwoPlacesQuestions(**SAME, num_questions=60).questions()
    for question, found in zip(task.questions(), asked, strict=True):
        assert found is not None and found.values == question.values and len(question.values) == 2
        assert {text.is_late(fact) for fact in found.facts} == {False, True}
    first = {found.facts for found in asked[: len(task._pairs)] if found}
    assert len(first) == min(60, len(task._pairs)), "no pair twice before every pair was asked once"


def test_a_reply_must_begin_with_both_values():
    task = TwoPlacesQuestions(**SAME)
    question = task.questions()[0]
    one, other = question.values
    assert task.is_right(question, question.answer)
    assert task.is_right(question, f"{question.answer} and the colour red"), (
        "what it lists beyond does not count"
    )
    for wrong in (
        "",
        f"the city is {one} .",
        f"{other} , {one} .",
        f"{one} , {one} .",
        f"red , {one} , {other} .",
    ):
        assert not task.is_right(question, wrong)


def test_ordinary_questions_about_the_same_text():
    task = TwoPlacesQuestions(**SAME, two_facts=False)
    text = TwoPlacesCorpus(**SAME).pocket_text
    found = [read(question.prompt, text) for question in task.questions()]
    assert all(q is not None and len(q.facts) == 1 for q in found)
    first = task.questions()[0]
    assert task.is_right(first, first.answer) and not task.is_right(first, f"{first.answer} red")
    assert task.describe() != TwoPlacesQuestions(**SAME).describe()


def test_a_text_without_pairs_is_refused():
    with pytest.raises(EvalError, match="num_tokens=20: so short a text tells of nobody twice"):
        TwoPlacesQuestions(seed=3, num_tokens=20)


def test_teachers_differ_in_their_options_alone_and_seeds_in_their_corpora(tmp_path):
    plain, other, next_seed = (
        TaughtRun(teacher=teacher, seed=seed, max_steps=7, base=tmp_path).arguments()
        for teacher, seed in (("chunk alone", 0), ("cascade of a third", 0), ("chunk alone", 1))
    )
    more = [argument for argument in other if argument not in plain]
    assert set(TEACHERS["cascade of a third"]) <= set(more) and len(more) == 5  # and its folder
    corpora = [
        json.loads(next(a for a in arguments if a.startswith("--data.corpus=")).partition("=")[2])
        for arguments in (plain, next_seed)
    ]
    assert [corpus["init_args"]["seed"] for corpus in corpora] == [700, 701]


def test_what_conversations_are_worth(tmp_path):
    """One question right, one wrong, one of both halves, and one about nothing in the text."""
    run = TaughtRun(teacher="chunk alone", seed=0, max_steps=7, base=tmp_path)
    task = TwoPlacesQuestions(seed=run.world, num_tokens=1500)
    both = task.questions()[0]
    one, other = TwoPlacesQuestions(seed=run.world, num_tokens=1500, two_facts=False).questions()[:2]
    said = [
        (both.prompt, both.answer),
        (one.prompt, one.answer),
        (other.prompt, "the city of it is red ."),
        ("la la", ""),
    ]
    conversations = [
        Conversation((Message("user", q, []), Message("assistant", a or "no .", [5])), "", {"index": i})
        for i, (q, a) in enumerate(said)
    ]
    Recording(run.folder / "recording").append(0, conversations)
    found = conversation_figures(run)
    assert found["valid"] == 3 / 4 and found["right"] == 2 / 3 and found["two places"] == 1 / 3
    assert found["two right"] == 1
    assert 0 < found["covered"] <= 4 / len(task.corpus.pocket_text.spans)


def test_the_table_has_means_over_seeds(tmp_path):
    runs = [
        TaughtRun(teacher=teacher, seed=seed, max_steps=7, base=tmp_path)
        for teacher in TEACHERS
        for seed in (0, 1)
    ]
    names = [f"{task}/{system}" for task in ("two_facts", "one_fact") for system in ("cartridge", "icl")]
    figures = {
        run.name: dict.fromkeys(
            [*names, "valid", "right", "two places", "two right", "covered"], 0.5 + 0.2 * run.seed
        )
        for run in runs
    }
    rows = table(runs, figures)
    assert [row[0] for row in rows[1:]] == [*TEACHERS, "(ICL)"]
    assert rows[1][1:3] == ["0.600 ± 0.100"] * 2 and rows[-1][1] == "0.600 ± 0.100"


def test_a_list_may_ask_for_any_two_facts():
    text = TwoPlacesCorpus(**SAME).pocket_text
    facts = list(TwoPlacesQuestions(**SAME)._pairs[0])
    asked = ask_list(facts, text, random.Random(0))
    assert asked.values == tuple(f.value for f in facts) and read(asked.prompt, text) == asked
