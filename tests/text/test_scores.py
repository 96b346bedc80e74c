"""Scores of texts: worked by hand, and against a plain longest common subsequence."""

from __future__ import annotations

import random

import pytest

from lit_cartridges.text.scores import rouge, token_f1


@pytest.mark.parametrize(
    ("reply", "reference", "f1"),
    [
        ("The cat.", "a cat", 1.0),
        ("the black cat sat", "cat cat", 2 * 1 / (3 + 2)),  # a word counts as often as both have it
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("an", "the", 0.0),
    ],
)
def test_f1_counts_words_in_common(reply, reference, f1):
    assert token_f1(reply, reference) == pytest.approx(f1)


def common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, by the definition."""
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + common(a[1:], b[1:])
    return max(common(a[1:], b), common(a, b[1:]))


@pytest.mark.parametrize("seed", range(4))
def test_rouge_l_is_the_longest_common_subsequence(seed):
    rng = random.Random(seed)
    reply, reference = (rng.choices("red green blue grey".split(), k=k) for k in (7, 5))
    assert rouge(" ".join(reply), " ".join(reference), "rougeL") == pytest.approx(
        2 * common(reply, reference) / 12
    )


def test_stems_are_one_word_where_they_are_asked_for():
    assert rouge("he walks", "he walked", "rouge1") == pytest.approx(0.5)
    assert rouge("he walks", "he walked", "rouge1", stemmed=True) == 1.0
