"""Parts of the corpus: how many conversations hold each, its loss, and what it says."""

from __future__ import annotations

import numpy as np
import pytest

from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.report.chunk_scores import ChunkScore, place_of, spread
from lit_cartridges.report.corpus_parts import corpus_parts
from lit_cartridges.report.figures import over_corpus, shades
from tests.tiny_run import message

WORDS = [f"w{i}" for i in range(300)]


def about(start, tokens, *, template="{chunk}", **known):
    nothing = np.empty(0, dtype=np.int32)
    text = template.replace("{chunk}", " ".join(WORDS[start : start + tokens]))
    known = {"chunk_start_token": start, "chunk_num_tokens": tokens} | known
    return Conversation((message("user", nothing), message("assistant", nothing)), text, known)


def test_each_part_knows_its_conversations_loss_and_text():
    rng = np.random.default_rng(0)
    spans = [(int(rng.integers(0, 250)), int(rng.integers(5, 50))) for _ in range(12)]
    scores = [ChunkScore(start_token=s, num_tokens=n, loss=float(rng.random())) for s, n in spans]
    parts = corpus_parts([about(s, n) for s, n in spans], scores, corpus_tokens=300)
    assert [part.start_token for part in parts] == list(np.cumsum([0, *(p.num_tokens for p in parts[:-1])]))
    assert sum(part.num_tokens for part in parts) == 300 and len(parts) == 300 // 16
    for part in parts:
        tokens = range(part.start_token, part.start_token + part.num_tokens)
        held = [[token for token in tokens if s <= token < s + n] for s, n in spans]
        assert part.num_conversations == sum(map(bool, held))
        losses = [score.loss for own, score in zip(held, scores, strict=True) for _ in own]
        assert part.loss == (pytest.approx(np.mean(losses)) if losses else None)
        most = max(held, key=len)
        # Words have one to four letters, so a chunk's share of characters is about its share of tokens.
        said = [int(word[1:]) for word in part.text.split()]
        assert bool(said) == bool(most)
        if most:
            assert abs(said[0] - most[0]) <= 6 and abs(said[-1] - most[-1]) <= 6


def test_what_stands_around_the_chunk_is_not_its_text():
    template = "Read this: {chunk} Do you understand?"
    (first, *_) = corpus_parts(
        [about(0, 200, template=template)], [], corpus_tokens=200, system_template=template
    )
    assert first.text.startswith("w0 w1 ") and "Read" not in first.text


def test_other_corpora_and_conversations_without_a_place_do_not_count():
    others = [about(0, 50, corpus_sha256="b"), Conversation(about(0, 9).messages, "x", {})]
    assert corpus_parts(others, [], corpus_tokens=100, corpus_sha256="a") == ()
    (part, *_) = corpus_parts(
        [*others, about(0, 50, corpus_sha256="a")], [], corpus_tokens=100, corpus_sha256="a"
    )
    assert part.num_conversations == 1


@pytest.mark.parametrize(
    "known", [{"chunk_start_token": -1}, {"chunk_num_tokens": 0.5}, {"chunk_num_tokens": 1e300}]
)
def test_a_place_that_none_is_does_not_count(known):
    assert place_of(about(0, 9, **known)) is None


def test_good_is_green_bad_is_red_and_unknown_grey():
    parts = corpus_parts(
        [about(0, 300)],
        [
            ChunkScore(start_token=0, num_tokens=30, loss=0.0),
            ChunkScore(start_token=40, num_tokens=40, loss=2.0),
        ],
        corpus_tokens=300,
    )
    shade_of = shades(parts)
    assert [shade_of(parts[i]) for i in (0, 4, 10)] == [
        "rgb(16,185,129)",
        "rgb(239,68,68)",
        "rgb(128,128,128)",
    ]
    assert over_corpus(()) is None


def test_samples_are_taken_at_even_distances():
    assert spread(range(10), 4) == [0, 2, 5, 7] and spread([1, 2], 4) == [1, 2]
