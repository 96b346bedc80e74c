"""Noise: the paper's unit normal, and noise with the mean and spread of the model's own keys and values."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.init import RandomVectors
from tests.init.context import CORPUS, OPENING, all_tensors, naive_prefill, new_context, same


def test_unit_vectors_follow_their_seed_and_spread(llama):
    first, again, other = (RandomVectors(std=0.5).tensors(new_context(llama, 400, seed=s)) for s in (1, 1, 2))
    assert same(first, again) and not same(first, other)
    assert not torch.equal(first.keys[0], first.keys[1])
    drawn = torch.stack(all_tensors(first))  # 2 × 2 layers × 2 heads × 400 × 8 numbers
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.05)
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.02)


def windows_of(corpus, length):
    """Eight windows that lie evenly over the corpus."""
    last = len(corpus) - length
    return [corpus[round(i * last / 7) :][:length] for i in range(8)]


def measured(model, num_tokens, corpus):
    """The naive statistics: every window behind the opening, whose positions do not count."""
    seen = [
        [x[:, len(OPENING) :] for x in naive_prefill(model, OPENING + window)]
        for window in windows_of(corpus, num_tokens - len(OPENING))
    ]
    return [torch.cat(parts, dim=1) for parts in zip(*seen, strict=True)]


def test_the_statistics_are_those_of_all_windows_together(model):
    corpus = CORPUS * 5
    means, stds = RandomVectors._statistics(new_context(model, corpus=corpus))
    for mean, std, seen in zip(means, stds, measured(model, 12, corpus), strict=True):
        torch.testing.assert_close(mean, seen.mean(1, keepdim=True), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(std, seen.std(1, keepdim=True, correction=0), atol=1e-5, rtol=1e-4)


def test_matched_vectors_have_the_mean_and_spread_of_each_heads_channels(llama):
    """400 draws per channel: the mean within 5 standard errors, the spread within 20 %."""
    corpus = CORPUS * 60
    tensors = RandomVectors(scale="matched").tensors(new_context(llama, 400, corpus=corpus))
    for drawn, seen in zip(all_tensors(tensors), measured(llama, 400, corpus), strict=True):
        mean, std = seen.mean(1), seen.std(1)
        assert ((drawn.mean(1) - mean).abs() / (std / 400**0.5)).max() < 5
        torch.testing.assert_close(drawn.std(1), std, rtol=0.2, atol=0)
    # Its own factor shrinks the spread and leaves the means alone.
    narrow = RandomVectors(scale="matched", std=1e-4).tensors(new_context(llama, 400, corpus=corpus))
    for drawn, seen in zip(all_tensors(narrow), measured(llama, 400, corpus), strict=True):
        torch.testing.assert_close(drawn[:, 0], seen.mean(1), atol=1e-2, rtol=0)


def test_a_corpus_shorter_than_the_cartridge_is_measured_whole(llama):
    means, _ = RandomVectors._statistics(new_context(llama, 40, corpus=CORPUS[:9]))
    for mean, seen in zip(means, naive_prefill(llama, OPENING + CORPUS[:9]), strict=True):
        torch.testing.assert_close(mean, seen[:, 2:].mean(1, keepdim=True), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_settings_are_refused(std):
    with pytest.raises(ValueError, match=f"std={std} must be"):
        RandomVectors(std=std)
    with pytest.raises(ValueError, match="scale='head' must be one of unit, matched"):
        RandomVectors(scale="head")


def test_the_provenance_tells_the_scales_apart():
    assert RandomVectors().describe() == "RandomVectors"
    assert RandomVectors(scale="matched").describe() == "RandomVectors(matched)"
