"""Strategies that prefill tokens: which tokens, and that their tensors are the plain model's own."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.corpora.open_corpus import TextCorpus
from lit_cartridges.init import FirstTokens, RandomTokens, SampledChunks, Text, TokenStrategy
from lit_cartridges.text import text_ids
from tests.init.context import CORPUS, OPENING, all_tensors, close, naive_prefill, new_context
from tests.tiny_models import VOCAB
from tests.tiny_run import FIRST_WORD, SPECIALS, tokenizer


def ids_of(strategy, context, num_tokens=10):
    return strategy.body_ids(context, num_tokens)


@pytest.mark.parametrize("strategy", [FirstTokens(), RandomTokens(), SampledChunks(chunk_tokens=4)])
def test_the_tensors_are_the_plain_models_cache_of_opening_and_body(strategy, model):
    context = new_context(model)
    close(
        all_tensors(strategy.tensors(context)),
        naive_prefill(model, OPENING + strategy.body_ids(context, 10)),
    )


def test_a_body_of_another_length_is_a_strategys_mistake(llama):
    class Short(TokenStrategy):
        def body_ids(self, context, num_tokens):
            return [7]

    with pytest.raises(RuntimeError, match=r"Short.body_ids gave 1 token ids instead of 10"):
        Short().tensors(new_context(llama))


# FirstTokens


def test_first_tokens_are_the_corpus_as_the_model_would_read_it(llama):
    context = new_context(llama)
    assert OPENING + ids_of(FirstTokens(), context) == list(context.context_ids[:12])


def test_a_short_corpus_is_read_again_without_a_second_opening(llama):
    assert ids_of(FirstTokens(), new_context(llama, corpus=[9, 8, 7])) == [9, 8, 7] * 3 + [9]


def test_no_corpus_is_refused(llama):
    with pytest.raises(ValueError, match="the corpus comes to no tokens"):
        FirstTokens().tensors(new_context(llama, corpus=[], context_ids=[]))


# Text


def test_a_texts_first_tokens_from_a_file_or_as_given(llama, tmp_path):
    words = " ".join(f"w{i}" for i in range(20, 50))
    (tmp_path / "text.txt").write_text(words)
    for strategy in (Text(text=words), Text(path=str(tmp_path / "text.txt"))):
        assert ids_of(strategy, new_context(llama)) == [FIRST_WORD + i for i in range(20, 30)]
    assert Text(path=str(tmp_path / "text.txt")).describe() == f"Text({tmp_path / 'text.txt'})"


def test_a_short_text_is_read_again(llama):
    assert ids_of(Text(text="w1 w2"), new_context(llama)) == [FIRST_WORD + 1, FIRST_WORD + 2] * 5


def test_a_text_has_the_tokens_that_it_would_have_as_a_corpus(tmp_path):
    (tmp_path / "text.txt").write_text("w1 <end> w2 unknown\n\nw3")
    corpus = TextCorpus(path=tmp_path / "text.txt")
    assert text_ids(tokenizer(), corpus.text) == corpus.token_ids(tokenizer()).tolist()


def test_text_settings_that_cannot_work_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="init.path=None, init.text=None: give one of them"):
        Text()
    with pytest.raises(ValueError, match="give one of them"):
        Text(path=__file__, text="b")
    with pytest.raises(ValueError, match=r"path='/nowhere/a.txt': there is no such file"):
        Text(path="/nowhere/a.txt")
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"init.path=.*blank.txt' is empty"):
        Text(path=str(tmp_path / "blank.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ValueError, match=r"init.path=.*bytes.txt' is not text in UTF-8"):
        Text(path=str(tmp_path / "bytes.txt"))


# RandomTokens


def test_random_tokens_are_uniform_over_the_plain_vocabulary(llama):
    ids = torch.tensor(ids_of(RandomTokens(), new_context(llama), 45_000))
    counts = torch.bincount(ids, minlength=VOCAB)
    assert counts[: len(SPECIALS)].sum() == 0
    mean = 45_000 / (VOCAB - len(SPECIALS))  # 500; 6 standard deviations of a binomial
    assert (counts[len(SPECIALS) :] - mean).abs().max() < 6 * mean**0.5


def test_tokens_that_the_model_has_no_embedding_of_are_not_drawn(llama):
    from transformers import PreTrainedTokenizerFast

    wide = PreTrainedTokenizerFast(tokenizer_object=tokenizer().backend_tokenizer)
    wide.add_tokens(["added"])
    known = wide.get_vocab()
    assert max(known.values()) == VOCAB  # one more than the model's

    class Wide(ChatRenderer):
        def __init__(self, tokenizer):
            self.tokenizer = tokenizer

    ids = ids_of(RandomTokens(), new_context(llama, renderer=Wide(wide)), 5000)
    assert max(ids) < VOCAB


# SampledChunks


def test_chunks_lie_in_the_corpus_do_not_overlap_and_add_up(llama):
    for seed in range(50):
        spans = SampledChunks(chunk_tokens=8).spans(60, 30, seed=seed)
        assert sorted(stop - start for start, stop in spans) == [6, 8, 8, 8]
        ordered = sorted(spans)
        assert ordered[0][0] >= 0 and ordered[-1][1] <= 60
        assert all(a[1] <= b[0] for a, b in zip(ordered, ordered[1:], strict=False))


def test_the_body_is_the_chunks_one_after_the_other(llama):
    context = new_context(llama, seed=3)
    strategy = SampledChunks(chunk_tokens=4)
    expected = [i for start, stop in strategy.spans(60, 10, seed=3) for i in CORPUS[start:stop]]
    assert strategy.body_ids(context, 10) == expected


def test_in_order_keeps_the_same_chunks_in_the_order_of_the_corpus():
    mixed = [SampledChunks(chunk_tokens=4).spans(200, 40, seed=seed) for seed in range(20)]
    kept = [SampledChunks(chunk_tokens=4, in_order=True).spans(200, 40, seed=seed) for seed in range(20)]
    assert [sorted(spans) for spans in mixed] == kept
    assert all(spans != sorted(spans) for spans in mixed)


def test_every_placing_of_chunks_is_equally_likely():
    """Two chunks of 2 in 6 tokens: 6 placings, each drawn 1/6 of the time, within 4 standard deviations."""
    draws, counts = 900, {}
    for seed in range(draws):
        spans = tuple(SampledChunks(chunk_tokens=2, in_order=True).spans(6, 4, seed=seed))
        counts[spans] = counts.get(spans, 0) + 1
    assert set(counts) == {((a, a + 2), (b, b + 2)) for a in range(5) for b in range(a + 2, 5)}
    deviation = (draws * 1 / 6 * 5 / 6) ** 0.5
    assert all(abs(count - draws / 6) < 4 * deviation for count in counts.values())


def test_a_corpus_as_long_as_the_body_is_taken_whole():
    assert SampledChunks(chunk_tokens=4, in_order=True).spans(12, 12, seed=1) == [(0, 4), (4, 8), (8, 12)]


def test_a_corpus_shorter_than_the_body_is_sampled_with_overlap():
    spans = SampledChunks(chunk_tokens=4).spans(10, 40, seed=0)
    assert len(spans) == 10 and all(0 <= start and stop == start + 4 <= 10 for start, stop in spans)
    assert len(set(spans)) > 3
    assert (
        sum(b - a for a, b in SampledChunks().spans(10, 25, seed=0)) == 25
    )  # chunks of 10, since there is no more


def test_a_chunk_needs_a_token():
    with pytest.raises(ValueError, match="chunk_tokens=0 must be at least 1"):
        SampledChunks(chunk_tokens=0)
