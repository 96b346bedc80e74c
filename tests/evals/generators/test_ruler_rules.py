"""RULER's generators, each held against the rule of its task: naive counts over what was made."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from lit_cartridges.evals.generators import RULER_TASKS, Made, fitted, ruler_generator
from lit_cartridges.evals.generators.documents import DocumentQuestion
from lit_cartridges.evals.generators.generator import GeneratorError
from lit_cartridges.evals.generators.haystack import NOISE, sentences
from lit_cartridges.evals.generators.ruler import NEEDLES, ONE_QUESTION, string_match
from lit_cartridges.evals.generators.words import Words

WORDS = Words(
    *(
        tuple(f"{kind}{i:03}" for i in range(count))
        for kind, count in (("adj", 60), ("noun", 90), ("verb", 40))
    )
)
SENTENCES = tuple(f"Sentence {i} of a speech ends here." for i in range(30))
DOCUMENTS = tuple(f"Text {i} says that thing {i} is worth {i + 100}." for i in range(12))
KNOWN = tuple(
    DocumentQuestion(
        f"What is thing {i} worth?", (str(i + 100),), (i,), tuple({i // 3 * 3, i // 3 * 3 + 1} - {i})
    )
    for i in range(12)
)
NEEDLE = re.compile(r"One of the special magic (\w+) for (\S+) is: (\S+)\.")


def count(text: str) -> int:
    return len(text.split())


def make(name: str, *, num_tokens: int = 600, questions: int = 1, seed: int = 0) -> Made:
    return fitted(generator(name, num_tokens, questions), count, num_tokens=num_tokens, seed=f"{name} {seed}")


def generator(name: str, num_tokens: int = 600, questions: int = 1):
    return ruler_generator(
        name,
        num_tokens=num_tokens,
        questions=questions,
        words=WORDS,
        sentences=SENTENCES,
        documents=DOCUMENTS,
        known=KNOWN,
    )


@pytest.mark.parametrize("name", RULER_TASKS)
def test_the_same_seed_makes_the_same_and_another_one_another(name):
    assert make(name) == make(name) != make(name, seed=1)


@pytest.mark.parametrize("name", RULER_TASKS)
@pytest.mark.parametrize("num_tokens", [600, 1111])
def test_it_is_the_longest_that_fits(name, num_tokens):
    own, made = generator(name, num_tokens), make(name, num_tokens=num_tokens)

    def taken(one: Made) -> int:
        longest = max(count(asked.prompt) + count(asked.lead) for asked in one.questions)
        return count(one.text) + longest + own.max_new_tokens

    size = own.least  # one unit after the other, until one is too many
    while size < (own.most or 10**4) and taken(own.made(size + 1, random.Random(f"{name} 0"))) <= num_tokens:
        size += 1
    assert made == own.made(size, random.Random(f"{name} 0")) and taken(made) <= num_tokens
    assert size > own.least


@pytest.mark.parametrize("name", NEEDLES)
@pytest.mark.parametrize("questions", [1, 5])
def test_needles_stand_as_often_as_the_task_says_and_hold_what_is_asked_for(name, questions):
    rule, made = NEEDLES[name], make(name, num_tokens=1500, questions=questions)
    hidden: dict[str, list[str]] = {}
    for kind, key, value in NEEDLE.findall(made.text):
        assert kind == rule.get("values", "numbers")
        hidden.setdefault(key, []).append(value)
    per_key, together = rule.get("values_per_key", 1), rule.get("asked_together", 1)
    if rule["haystack"] == "needles":
        assert len(hidden) > 5 * questions
    else:
        assert len(hidden) == max(rule.get("num_keys", 1), together * questions)
    assert all(len(values) == per_key for values in hidden.values())
    assert len({value for values in hidden.values() for value in values}) == per_key * len(hidden)
    assert len(made.questions) == questions
    asked: list[str] = []
    for one in made.questions:
        keys = [key for key in hidden if re.search(rf"(?<![\w-]){key}(?![\w-])", one.prompt)]
        assert len(keys) == together and all(key in one.lead for key in keys)
        assert Counter(one.answers) == Counter(value for key in keys for value in hidden[key])
        asked += keys
    assert len(set(asked)) == len(asked)
    shape = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}" if "uuids" in rule.values() else r"[1-9]\d{6}"
    assert all(re.fullmatch(shape, answer) for one in made.questions for answer in one.answers)


@pytest.mark.parametrize("name", ["niah_single_1", "niah_single_2"])
def test_what_is_not_a_needle_is_the_haystack(name):
    lines = sentences(NEEDLE.sub("", make(name).text.partition("\n")[2]))
    assert set(lines) == set(sentences(NOISE) if name == "niah_single_1" else SENTENCES)


def test_needles_come_at_all_depths():
    places = []
    for seed in range(40):
        text = make("niah_single_1", seed=seed).text
        places.append(NEEDLE.search(text).start() / len(text))
    assert min(places) < 0.2 and max(places) > 0.8


@pytest.mark.parametrize("questions", [1, 3])
def test_every_variable_of_a_chain_leads_back_to_its_value(questions):
    made = make("vt", num_tokens=1500, questions=questions)
    example, _, text = made.text.rpartition("The text below hides")
    known: dict[str, str] = {}
    for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", text):
        assert source.isdigit() or source in known, "a line stands before the one that it needs"
        known[name] = source if source.isdigit() else known[source]
    assert len(known) == 5 * questions and all(len(name) == 5 for name in known)
    for asked in made.questions:
        (value,) = set(re.findall(r"\b\d{5}\b", asked.prompt))
        assert set(asked.answers) == {name for name, own in known.items() if own == value}
        assert len(asked.answers) == 5 and value in asked.lead
    shown = re.findall(r"VAR (\w+) = ", example)
    assert len(shown) == 5 and example.split()[-5:] == shown


@pytest.mark.parametrize(("num_tokens", "often", "seldom"), [(600, 6, 1), (5000, 30, 3)])
def test_ten_words_are_as_common_as_the_task_says(num_tokens, often, seldom):
    made = make("cwe", num_tokens=num_tokens)
    example, _, text = made.text.rpartition("Below is a numbered list")
    numbers, words = zip(*re.findall(r"(\d+)\. (\w+)", text), strict=True)
    assert [int(n) for n in numbers] == list(range(1, len(words) + 1))
    counts = Counter(words)
    answers = made.questions[0].answers
    assert len(answers) == 10 and {counts[word] for word in answers} == {often}
    assert {n for word, n in counts.items() if word not in answers} == {seldom}
    assert "stand in it more often" in example and set(counts) <= set(WORDS.all)


@pytest.mark.parametrize("num_tokens", [300, 600, 2500])
def test_three_coded_words_are_the_most_frequent_behind_the_dots(num_tokens):
    made = make("fwe", num_tokens=num_tokens)
    counts = Counter(made.text.split("ones. ", 1)[1].split()).most_common()
    assert counts[0][0] == "..." and tuple(word for word, _ in counts[1:4]) == made.questions[0].answers
    frequencies = [n for _, n in counts[:5]]
    assert sorted(set(frequencies), reverse=True) == frequencies
    # The law: the second is there a quarter as often as the first, the third a ninth.
    assert abs(frequencies[0] / 4 - frequencies[1]) <= 1 and abs(frequencies[0] / 9 - frequencies[2]) <= 1
    assert all(re.fullmatch(r"[a-z]{6}|\.\.\.", word) for word, _ in counts)


@pytest.mark.parametrize("questions", [1, 4])
def test_questions_are_answered_by_documents_that_are_there(questions):
    for seed in range(5):
        made = make("qa_1", num_tokens=170, questions=questions, seed=seed)
        texts = re.findall(r"Document \d+:\n(.*)", made.text)
        assert 1 < len(set(texts)) == len(texts) < len(DOCUMENTS)
        assert len(made.questions) == questions
        for asked in made.questions:
            thing = re.search(r"thing (\d+)", asked.prompt)[1]
            assert any(f"thing {thing} is worth {asked.answers[0]}." in text for text in texts)
        first = int(re.search(r"thing (\d+)", made.questions[0].prompt)[1])
        for near in KNOWN[first].near:
            assert DOCUMENTS[near] in texts


def test_the_score_is_the_share_of_the_answers_or_any_of_them():
    assert string_match("It is 12, I think: 34", ("12", "34", "56", "78"), every=True) == 0.5
    assert string_match("in warsaw", ("Warsaw", "the capital"), every=False) == 1
    assert string_match("in Gdańsk", ("Warsaw", "the capital"), every=False) == 0


@pytest.mark.parametrize("name", [name for name in RULER_TASKS if name not in ONE_QUESTION])
def test_too_few_tokens_are_refused(name):
    with pytest.raises(GeneratorError, match="num_tokens=30 is too short"):
        make(name, num_tokens=30)
