from __future__ import annotations

import numpy as np
import pytest

from lit_cartridges.self_study import ChunkerError, TokenChunker


@pytest.mark.parametrize(
    ("tokens", "shortest", "longest"), [(3000, 100, 800), (1000, 100, 1500), (200, 50, 50)]
)
def test_every_token_is_covered_about_equally(tokens, shortest, longest):
    chunker = TokenChunker(min_tokens=shortest, max_tokens=longest)
    corpus = np.arange(tokens, dtype=np.int32)
    covered, draws = np.zeros(tokens), 12000
    rng = np.random.default_rng(0)
    for _ in range(draws):
        chunk = chunker.chunk(corpus, rng)
        assert min(shortest, tokens) <= chunk.num_tokens <= longest
        assert np.array_equal(
            chunk.token_ids, corpus[chunk.start_token : chunk.start_token + chunk.num_tokens]
        )
        covered[chunk.start_token : chunk.start_token + chunk.num_tokens] += 1
    share = covered / covered.mean()
    bound = shortest / (shortest + longest) + 0.09
    assert share.min() > 1 - bound and share.max() < 1 + bound
    assert abs(share[:shortest].mean() - 1) < 0.06 and abs(share[-shortest:].mean() - 1) < 0.06


def test_same_generator_state_same_chunk():
    chunker, corpus = TokenChunker(min_tokens=5, max_tokens=20), np.arange(100, dtype=np.int32)
    first, second = (chunker.chunk(corpus, np.random.default_rng(7)) for _ in range(2))
    assert first.start_token == second.start_token and np.array_equal(first.token_ids, second.token_ids)
    assert first.token_ids.dtype == np.int32


@pytest.mark.parametrize("tokens", [1, 49, 50])
def test_a_short_corpus_is_taken_whole(tokens):
    chunk = TokenChunker(min_tokens=50, max_tokens=60).chunk(np.arange(tokens), np.random.default_rng(0))
    assert (chunk.start_token, chunk.num_tokens) == (0, tokens)


@pytest.mark.parametrize(("shortest", "longest"), [(0, 5), (6, 5)])
def test_bad_bounds(shortest, longest):
    with pytest.raises(ValueError, match=f"min_tokens={shortest}"):
        TokenChunker(min_tokens=shortest, max_tokens=longest)


def test_empty_corpus():
    with pytest.raises(ChunkerError, match="corpus_ids is empty"):
        TokenChunker().chunk(np.empty(0, np.int32), np.random.default_rng(0))


def test_a_chunk_longer_than_the_context():
    chunker = TokenChunker(min_tokens=512, max_tokens=4096)
    chunker.validate(5000, 904)
    chunker.validate(2048, 500, corpus_tokens=1500)
    with pytest.raises(ChunkerError, match="max_tokens=4096.*2048 positions; chunks may have at most 1548"):
        chunker.validate(2048, 500)
    with pytest.raises(ChunkerError, match="shorten the conversation"):
        chunker.validate(400, 500)
