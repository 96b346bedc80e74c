"""Fewer keys, with biases and new values, that give the attention of all of them (arXiv 2602.16284)."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention.rotary import Rotary
from lit_cartridges.init import FirstTokens, SampledChunks
from lit_cartridges.init.attention_matching import AttentionMatching
from lit_cartridges.init.important_tokens import ImportantTokens
from lit_cartridges.init.matched_head import HeadProblem
from tests.init.reference_texts import (
    OPENING,
    drawn_context,
    drawn_conversations,
    drawn_tokens,
    logits_behind,
    logits_of_the_text,
    prefilled,
)
from tests.tiny_models import tiny_model

EXACT = {"atol": 1e-4, "rtol": 1e-4}
FITTED = [
    AttentionMatching(select=select, bias=bias) for select in ("attention", "omp") for bias in (True, False)
]


@pytest.mark.parametrize("strategy", [FITTED[0], FITTED[3]], ids=lambda s: s.describe())
def test_all_positions_are_the_prefill(model, strategy):
    context = drawn_context(model, num_tokens=64)
    start = strategy.tensors(context)
    ids = drawn_tokens(9, 7)
    torch.testing.assert_close(
        logits_behind(model, start, ids), logits_of_the_text(model, context.context_ids, ids), **EXACT
    )


def output_error(model, context, start, texts):
    """Squared error of the attention over the cartridge alone, relative to that over the whole corpus, all layers.

    Each layer's queries are those of texts read behind the corpus; behind the cartridge they stand as many positions
    earlier as it is shorter. Plain softmax, nothing of the strategy's own code.
    """
    full, rotary = prefilled(model, context.context_ids), Rotary(model)
    shift, wrong, whole = start.num_tokens - full.num_tokens, 0.0, 0.0
    for text in texts:
        queries, places = {}, torch.arange(len(text)) + full.num_tokens
        reading = Reading(
            keys=full.keys,
            values=full.values,
            position_ids=places[None],
            observe=lambda layer, query, scale, window, softcap, queries=queries: queries.__setitem__(
                layer, query[0] * scale
            ),
        )
        with reads_prefixes(model), torch.no_grad():
            model.base_model(
                torch.tensor([text]), position_ids=places[None], use_cache=False, reading=reading
            )
        for layer, query in queries.items():
            groups = len(query) // len(full.keys[layer])
            moved = rotary.rotate(query, layer=layer, from_positions=places, to_positions=places + shift)
            outputs = []
            for q, side in ((query, full), (moved, start)):
                scores = q @ side.keys[layer].repeat_interleave(groups, 0).transpose(1, 2)
                if side.biases is not None:
                    scores = scores + side.biases[layer].repeat_interleave(groups, 0)[:, None]
                outputs.append(scores.softmax(-1) @ side.values[layer].repeat_interleave(groups, 0))
            wrong += float((outputs[1] - outputs[0]).square().sum())
            whole += float(outputs[0].square().sum())
    return wrong / whole


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "qwen3"])
def test_its_attention_is_nearer_the_corpus_than_any_selections(name):
    """At 4 times fewer positions, on conversations that the fit has not seen; a fifth of the best selection's error."""
    model = tiny_model(name)
    context, unseen = drawn_context(model, num_tokens=16), drawn_conversations(3, seed=900)
    selections = [
        FirstTokens(),
        SampledChunks(chunk_tokens=6),
        *(ImportantTokens(per=p) for p in ("head", "layer")),
    ]
    selected = [output_error(model, context, s.tensors(context), unseen) for s in selections]
    fitted = [output_error(model, context, s.tensors(context), unseen) for s in FITTED]
    assert max(fitted) < 0.2 * min(selected), (fitted, selected)


@pytest.mark.parametrize(
    ("name", "share"), [("mistral", 0.95), ("gemma3_text", 0.85), ("phi3", 0.2), ("qwen3_moe", 0.6)]
)
def test_logits_of_unseen_texts_are_nearer_too(name, share):
    """The whole model, teacher-forced: at most this ``share`` of the best selection's squared error.

    Sliding windows of 24 leave little to gain: behind 64 tokens their layers see the last 23, and 16 places hold most.
    """
    model = tiny_model(name)
    context, unseen = drawn_context(model, num_tokens=20), drawn_conversations(3, seed=900)
    truth = [logits_of_the_text(model, context.context_ids, text) for text in unseen]

    def error(strategy):
        start = strategy.tensors(context)
        pairs = zip(unseen, truth, strict=True)
        return sum(float((logits_behind(model, start, t) - logits).square().mean()) for t, logits in pairs)

    selected = min(error(s) for s in (FirstTokens(), SampledChunks(chunk_tokens=6), ImportantTokens()))
    assert max(error(FITTED[0]), error(FITTED[2])) < share * selected


def test_biases_improve_the_fit_and_the_opening_has_none(llama):
    context, seen = drawn_context(llama, num_tokens=12), drawn_conversations(8)
    with_biases, without = (FITTED[0].tensors(context), FITTED[1].tensors(context))
    assert without.biases is None
    assert output_error(llama, context, with_biases, seen) < output_error(llama, context, without, seen)
    for bias in with_biases.biases:
        assert (bias.shape, bias.dtype) == ((2, 12), torch.float32)
        assert (bias[:, :OPENING] == 0).all()
        assert (bias[:, OPENING:] != 0).all()
        assert torch.isfinite(bias).all()
    Cartridge(*with_biases).require_fit(llama)


def test_the_opening_keeps_its_values_and_is_seen_at_its_old_distance(llama):
    context, full = drawn_context(llama, num_tokens=12), None
    full = prefilled(llama, context.context_ids)
    start, rotary = FITTED[0].tensors(context), Rotary(llama)
    leading = torch.arange(OPENING)
    for layer in range(2):
        moved = rotary.rotate(
            full.keys[layer][:, :OPENING], layer=layer, from_positions=leading, to_positions=leading + 12 - 64
        )
        torch.testing.assert_close(start.keys[layer][:, :OPENING], moved, **EXACT)
        torch.testing.assert_close(start.values[layer][:, :OPENING], full.values[layer][:, :OPENING], **EXACT)


@pytest.mark.parametrize("strategy", [FITTED[0], FITTED[2]], ids=lambda s: s.describe())
@pytest.mark.parametrize("num_tokens", [OPENING + 1, 17, 64])
def test_windows_share_the_positions_by_length(llama, strategy, num_tokens):
    """Three windows of 20 corpus tokens each: shares of 0, 0 and 1 of one place, and 4, 4 and 5 of 13."""
    strategy = AttentionMatching(select=strategy.select, window_tokens=OPENING + 20, num_conversations=2)
    context = drawn_context(llama, num_tokens)
    start = strategy.tensors(context)
    assert {x.shape[1] for side in start for x in side} == {num_tokens}
    if num_tokens == 64:
        opening, corpus = context.context_ids[:OPENING], context.context_ids[OPENING:]
        pieces = [
            prefilled(llama, [*opening, *corpus[i : i + 20]]).values[1][:, OPENING:] for i in (0, 20, 40)
        ]
        torch.testing.assert_close(start.values[1][:, OPENING:], torch.cat(pieces, 1), **EXACT)
        assert all(bias.abs().max() < 1e-4 for bias in start.biases)


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_corpus_longer_than_the_context_is_fitted_in_windows(name):
    """700 tokens against a context of 512."""
    context = drawn_context(tiny_model(name), num_tokens=24, corpus_tokens=700)
    start = AttentionMatching(num_conversations=2, max_query_tokens=16).tensors(context)
    assert {x.shape[1] for side in start for x in side} == {24}
    assert all(torch.isfinite(x).all() for side in start for x in side)


def drawn_problem(queries=50, tokens=12, opening=2):
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(queries, tokens, generator=generator, dtype=torch.float64) * 2
    values = torch.randn(tokens, 5, generator=generator, dtype=torch.float64)
    seen = torch.ones(queries, opening, dtype=torch.float64)
    attention = scores.softmax(-1)
    return HeadProblem(
        attention=attention, shares=attention, values=values, opening_tokens=opening, opening_seen=seen
    )


def test_values_are_the_plain_least_squares_of_the_attention_output():
    problem, chosen = drawn_problem(), torch.tensor([3, 4, 7, 11])
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    seen = torch.ones(50, 4, dtype=torch.float64)
    mass = problem.attention[:, [0, 1, *chosen]] * torch.cat([torch.ones(2), weights])
    shares = mass / mass.sum(1, keepdim=True)
    target = problem.attention @ problem.values - shares[:, :2] @ problem.values[:2]
    expected = torch.linalg.lstsq(shares[:, 2:], target).solution
    ours = problem.fitted_values(chosen, seen, weights, ridge=1e-13)
    torch.testing.assert_close(ours, expected, atol=1e-8, rtol=1e-6)


def test_matching_pursuit_takes_the_key_that_correlates_most_with_what_is_missing():
    """The plain loop: one key a step, all weights solved anew without the strategy's solver (they stay positive)."""
    problem, taken = drawn_problem(), []
    columns, mass = problem.attention[:, 2:], problem.attention[:, 2:].sum(1)
    residual = mass
    for _ in range(4):
        score = columns.T @ residual
        score[taken] = -torch.inf
        taken.append(int(score.argmax()))
        weights = torch.linalg.lstsq(columns[:, taken], mass[:, None]).solution
        assert (weights > 0).all()
        residual = mass - (columns[:, taken] @ weights)[:, 0]
    ours = problem.by_matching_pursuit(4, keys_per_step=1, ridge=1e-12)
    assert ours.tolist() == sorted(i + 2 for i in taken)
    assert ours.tolist() != problem.by_attention(4).tolist(), (
        "the two selections must differ to tell them apart"
    )


def test_the_fit_follows_its_seed(llama):
    strategy = AttentionMatching(max_query_tokens=20)
    one, same, other = (strategy.tensors(drawn_context(llama, 16, seed=s)) for s in (1, 1, 2))
    for mine, again in zip(one, same, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, again, strict=True))
    assert not torch.equal(one.values[1], other.values[1])


def test_it_needs_conversations(llama):
    with pytest.raises(
        ValueError, match=r"AttentionMatching\(attention, bias\) needs self-study conversations"
    ):
        AttentionMatching().tensors(drawn_context(llama, 20, self_study=None))
    with pytest.raises(ValueError, match="no reference text with a token in it"):
        AttentionMatching().tensors(drawn_context(llama, 20, self_study=lambda count: [[]] * count))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"select": "best"}, "select='best' must be one of attention, omp"),
        ({"ridge": 0.0}, "ridge=0.0 must be above 0"),
        ({"keys_per_step": 0}, "keys_per_step=0 must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        AttentionMatching(**settings)
