"""Questions off the corpus in the pocket language, and the rows that teach a copy of the bundled model to abstain."""

from __future__ import annotations

import random

import pytest

from lit_cartridges.conversations.requests import read_requests
from lit_cartridges.pocket import World
from lit_cartridges.pocket.off_corpus import PocketNotes, PocketUnknown, write_requests
from lit_cartridges.pocket.pocket_text import read_corpus
from lit_cartridges.pocket.questions import read
from lit_cartridges.pocket.tokenizer import words
from pocket_lab.abstain import PocketAbstentionData
from pocket_lab.rows import ANSWER, SILENT, VALUE, conversation_row

OTHERS = (1, 2)


def split(prompt):
    """A note's sentences, and the question behind them."""
    note, _, asked = prompt.rpartition(" . ")
    return (f"{note} .", asked) if note else ("", prompt)


def test_a_note_answers_its_question():
    task = PocketNotes(seed=1, num_questions=30, part=OTHERS)
    names = set(World(0, part=OTHERS).names)
    assert (
        len(task.questions()) == 30
        and task.questions() == PocketNotes(seed=1, num_questions=30, part=OTHERS).questions()
    )
    found = 0
    for question in task.questions():
        note, asked = split(question.prompt.removesuffix(" ."))
        asked += " ." if question.prompt.endswith(" .") else ""
        if (known := read(asked, read_corpus(note))) is not None:
            found += 1
            assert known.values == question.values and known.facts[0].name in names
        assert task.is_right(question, question.answer)
        assert not task.is_right(question, "the city of Mira is not known .")
    assert found > 25  # a note may end within a sentence


def test_nobody_told_what_is_asked_and_that_is_the_answer():
    task = PocketUnknown(seed=1, num_questions=30, part=OTHERS)
    names = set(World(0, part=OTHERS).names)
    for question in task.questions():
        assert names & set(question.prompt.split()) and question.answer.endswith(" is not known .")
        assert task.is_right(question, question.answer) and not task.is_right(question, "the pet is known .")


def test_requests_are_a_chat_data_set_of_both_kinds(tmp_path):
    write_requests(tmp_path / "requests.jsonl", count=40, seed=1, part=OTHERS)
    made = read_requests(tmp_path / "requests.jsonl")
    evaluated = {
        q.prompt for kind in (PocketNotes, PocketUnknown) for q in kind(seed=1, part=OTHERS).questions()
    }
    assert len(made) > 35 and 15 <= sum(len(one.split()) > 16 for one in made) <= 25
    assert len(set(made) & evaluated) < 5  # notes are of worlds that the evaluation does not have


@pytest.mark.parametrize("unknown", [0.0, 0.5, 1.0])
def test_turns_ask_for_what_the_text_does_not_state(unknown):
    corpus = World(1).corpus(150)
    row = conversation_row(corpus, 3000, random.Random(0), 0.0, 0.0, 4096, unknown=unknown)
    said = " ".join(words()[i] for i in row.ids)
    turns = [turn.split(" <end>")[0].split(" <assistant> ") for turn in said.split("<user> ")[1:-1]]
    share = sum("not known" in answer for _, answer in turns) / len(turns)
    assert abs(share - unknown) < 0.15
    for asked, answer in turns:
        known = read(asked, corpus)
        assert (known is None) == ("not known" in answer)
        assert known is None or known.answer == answer


def test_chats_without_a_text_have_one_turn():
    data = PocketAbstentionData(seed=1, tokens_per_batch=5120, without_text=1.0)
    batch = data.batch(3)
    assert batch["ids"].shape[0] == 40
    rows = [" ".join(words()[i] for i in row if i != 1) for row in batch["ids"].tolist()]
    assert all(row.startswith("<bos> <user> ") and row.count("<user>") == 1 for row in rows)
    assert 5 < sum("not known" in row for row in rows) < 35
    assert {SILENT, ANSWER, VALUE} <= set(batch["roles"].flatten().tolist())
