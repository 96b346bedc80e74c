"""The pocket language and its worlds."""

from __future__ import annotations

import random

import pytest

from lit_cartridges.pocket import SEED_PROMPTS, World, unknown_words
from lit_cartridges.pocket.language import ANSWER, STATEMENTS, state
from lit_cartridges.pocket.questions import KINDS, ask, read
from lit_cartridges.pocket.vocabulary import ATTRIBUTE_OF, KIND_OF, VALUES


def test_a_seed_decides_everything():
    first, again, other = (World(seed).corpus(700) for seed in (3, 3, 4))
    assert first == again and first.text != other.text
    assert World(3).corpus(700, index=1).text != first.text
    assert World(3).questions(first, 20, seed=1) == World(3).questions(again, 20, seed=1)
    assert World(3).questions(first, 20, seed=1) != World(3).questions(first, 20, seed=2)


@pytest.mark.parametrize("num_tokens", [64, 150, 500, 1500, 4000])
def test_length_and_density(num_tokens):
    lengths, facts = [], 0
    for seed in range(10):
        corpus = World(seed).corpus(num_tokens)
        assert len(corpus.text.split()) == corpus.num_tokens <= num_tokens
        lengths.append(corpus.num_tokens)
        facts += len(corpus.facts)
    assert min(lengths) >= num_tokens - 12
    assert 13 <= 10 * num_tokens / facts <= 25


def test_names_and_attributes_are_both_shared():
    facts = World(5).corpus(1500).facts
    by_name = [sum(f.name == fact.name for f in facts) for fact in facts]
    by_attribute = [sum(f.attribute == fact.attribute for f in facts) for fact in facts]
    assert sum(n > 1 for n in by_name) > 0.9 * len(facts)
    assert sum(n > 2 for n in by_attribute) > 0.9 * len(facts)
    assert len({(f.name, f.attribute) for f in facts}) == len(facts), "two values of one attribute"


def test_held_out_pairs_are_never_seen_in_training():
    def pairs(held_out):
        corpora = [World(seed, held_out=held_out).corpus(3000) for seed in range(40)]
        return {(fact.name, fact.value) for corpus in corpora for fact in corpus.facts}

    training, held_out = pairs(False), pairs(True)
    assert not training & held_out
    assert len(training) > 3000 and len(held_out) > 3000
    assert World(1).names == World(1, held_out=True).names


def test_parts_share_no_name():
    texts = [World(1, held_out=True, part=(i, 2)).corpus(1500) for i in range(2)]
    first, second = ({fact.name for fact in text.facts} for text in texts)
    assert first and second and not first & second
    with pytest.raises(ValueError, match=r"part=\[2, 2\]: must be \[i, n\]"):
        World(1, part=(2, 2))


def test_spans_hold_the_statements_and_cuts_keep_whole_ones():
    corpus = World(7).corpus(600)
    chunk = corpus.cut(33, 333)
    assert chunk.num_tokens == 300 and 0 < len(chunk.facts) < len(corpus.facts)
    for text in (corpus, chunk):
        for fact, spans in text.spans.items():
            for start, end in spans:
                sentence = list(text.words[start:end])
                assert sentence in [state(fact, template) for template in STATEMENTS[fact.attribute]]
                assert sentence[-2] == fact.value


def test_a_corpus_states_nothing_but_its_facts():
    corpus = World(9).corpus(1200)
    covered = {i for spans in corpus.spans.values() for start, end in spans for i in range(start, end)}
    assert not [w for i, w in enumerate(corpus.words) if w in ATTRIBUTE_OF and i not in covered]


def test_questions_are_answerable_and_graded():
    world = World(2, held_out=True)
    corpus = world.corpus(500)
    questions = world.questions(corpus, len(corpus.facts))
    assert {q.facts[0] for q in questions} == set(corpus.facts), "every fact once"
    for question in questions:
        fact = question.facts[0]
        assert question.answer == " ".join(state(fact, ANSWER)) and question.is_right(question.answer)
        assert fact.name in question.prompt.split() and fact.value not in question.prompt.split()
        assert all(fact.value in corpus.words[start:end] for start, end in question.support)
        wrong = next(v for v, a in ATTRIBUTE_OF.items() if a == fact.attribute and v != fact.value)
        assert not question.is_right(question.answer.replace(fact.value, wrong))
        assert not question.is_right(f"{question.answer} {wrong}")
    with pytest.raises(ValueError, match="states no fact"):
        world.questions(corpus.cut(0, 3), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_questions_of_every_kind_are_read_back(kind):
    corpus, rng = World(4).corpus(400), random.Random(0)
    met = set()
    for _ in range(600):
        question = ask(kind, corpus, rng)
        assert read(question.prompt, corpus) == question
        assert len(question.prompt.split()) <= 16 and len(question.answer.split()) <= 24
        assert not unknown_words(question.prompt) and not unknown_words(question.answer)
        met |= set(question.facts)
    assert met == set(corpus.facts)


def test_messages_that_are_no_questions():
    corpus = World(4).corpus(400)
    absent = next(name for name in KIND_OF if name not in corpus.words)
    name = corpus.facts[0].name
    for message in (
        f"give me all about {absent} .",
        f"what {name} ?",
        "about , what is the city ?",
        f"{name} {name}",
    ):
        assert read(message, corpus) is None


def test_seed_prompts():
    assert tuple(SEED_PROMPTS) == KINDS
    for wordings in SEED_PROMPTS.values():
        assert len(wordings) >= 2 and not any(unknown_words(text) for text in wordings)


def test_few_attributes_leave_the_name_to_decide():
    facts = World(6, attributes=("pet", "river")).corpus(800).facts
    assert len(facts) > 25 and {fact.attribute for fact in facts} == {"pet", "river"}
    assert World(6).corpus(800) == World(6, attributes=tuple(VALUES)).corpus(800)
