"""Conversations of similar requests: what is asked for is there, once, and its scores are those of the benchmarks."""

from __future__ import annotations

import re

import pytest

from lit_cartridges.evals.generators import SimilarRequests, fitted
from lit_cartridges.evals.generators.similar_requests import ratio_after_mark, tagged_f1


def conversation(*, needles: int = 3, seed: int = 0, tags: bool = False, num_tokens: int = 2000):
    own = SimilarRequests(
        line=lambda rng: f"Line {rng.randrange(10**6)} goes on.", needles=needles, tags=tags
    )
    return fitted(own, lambda text: len(text.split()), num_tokens=num_tokens, seed=f"{seed}")


@pytest.mark.parametrize("needles", [2, 8])
def test_each_question_asks_for_the_reply_to_that_request(needles):
    made = conversation(needles=needles)
    turns = re.findall(r"User: (.*?)\n\nAssistant: (.*?)(?=\n\nUser: |\Z)", made.text, re.DOTALL)
    assert len(turns) > 3 * needles and len({reply for _, reply in turns}) == len(turns)
    assert len(made.questions) == needles
    for i, asked in enumerate(made.questions):
        mark, which, form, topic = re.match(
            r"Prepend (\w+) to the (\d)\w\w (.*?) about (.*?) of", asked.prompt
        ).groups()
        own = [reply for request, reply in turns if request == f"Write a {form} about {topic}."]
        assert len(own) == needles and int(which) == i + 1
        assert asked.answers == (mark + own[i], mark) and mark not in made.text
    others = {request for request, _ in turns} - {f"Write a {form} about {topic}."}
    assert any(form in request for request in others) and any(topic in request for request in others)


def test_it_is_the_seeds_and_of_its_length():
    assert conversation(seed=1) == conversation(seed=1) != conversation(seed=2)
    for num_tokens in (900, 1500):
        made = conversation(num_tokens=num_tokens)
        assert num_tokens - 80 < len(made.text.split()) + 256 + 20 <= num_tokens


def test_the_ratio_is_difflibs_and_nothing_without_the_letters():
    answer, mark = "abcdefghij" + "one two three", "abcdefghij"
    assert ratio_after_mark(answer, answer, mark) == 1
    assert ratio_after_mark("one two three", answer, mark) == 0
    assert ratio_after_mark(mark, answer, mark) == 0
    assert ratio_after_mark(mark + "one two", answer, mark) == pytest.approx(2 * 7 / (7 + 13))


def test_f1_counts_the_words_between_the_tags():
    asked = conversation(tags=True).questions[0]
    answer = asked.answers[0]
    assert answer.startswith("<start>") and "between <start> and <end>" in asked.prompt
    assert tagged_f1(f"I think. {answer} Yes.", answer) == 1
    assert tagged_f1("a b c", "<start>a b c<end>") == 0
    assert tagged_f1("<start>a b", "<start>a b c d<end>") == pytest.approx(2 * 2 / (2 + 4))
    assert tagged_f1("<start>x<end>a b", "<start>a b<end>") == 0
