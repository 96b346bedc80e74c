"""The positions that reference queries attend to most, at their new places."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.rotary import Rotary
from lit_cartridges.init.important_tokens import ImportantTokens
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


@pytest.mark.parametrize("queries", ["self_study", "corpus"])
def test_all_positions_are_the_prefill(model, queries):
    context = drawn_context(model, num_tokens=64)
    start = ImportantTokens(queries=queries).tensors(context)
    ids = drawn_tokens(9, 7)
    torch.testing.assert_close(
        logits_behind(model, start, ids), logits_of_the_text(model, context.context_ids, ids), **EXACT
    )


def attention_received(model, context, conversations):
    """Per layer [kv_heads, tokens]: softmax over the context alone, of the model's own rotated queries.

    The queries are found without the code under test: the hidden states of a plain forward call, through the model's own
    projections and rotation.
    """
    total, count = None, 0
    prefix = len(context.context_ids)
    for text in conversations:
        ids = torch.tensor([[*context.context_ids, *text]])
        cache, seen = DynamicCache(), []
        hooks = [
            layer.self_attn.register_forward_pre_hook(
                lambda module, args, kwargs, seen=seen: seen.append((module, kwargs)), with_kwargs=True
            )
            for layer in model.model.layers
        ]
        with torch.no_grad():
            model(ids, **cache_argument(cache))
        for hook in hooks:
            hook.remove()
        scores = []
        for layer, (module, kwargs) in enumerate(seen):
            query = module.q_proj(kwargs["hidden_states"]).unflatten(-1, (4, -1)).transpose(1, 2)
            cos, sin = kwargs["position_embeddings"]
            first, second = query.chunk(2, -1)
            query = query * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]
            keys = cache.layers[layer].keys[0, :, :prefix].repeat_interleave(2, 0)
            weights = (query[0, :, prefix:] @ keys.transpose(1, 2) * module.scaling).softmax(-1)
            scores.append(weights.sum(1).unflatten(0, (2, 2)).sum(1))
        total = scores if total is None else [a + b for a, b in zip(total, scores, strict=True)]
        count += len(text)
    return [x / count for x in total]


@pytest.mark.parametrize("per", ["head", "layer"])
def test_the_most_attended_positions_stay_in_order_and_are_rotated_to_their_places(llama, per):
    context, keep = drawn_context(llama, num_tokens=20), 20
    start = ImportantTokens(per=per, num_conversations=3).tensors(context)
    received = attention_received(llama, context, drawn_conversations(3))
    full, rotary = prefilled(llama, context.context_ids), Rotary(llama)
    chosen = set()
    for layer, scores in enumerate(received):
        if per == "layer":
            scores = scores.mean(0).expand(2, -1)
        for head in range(2):
            body = sorted(range(OPENING, 64), key=lambda i: -scores[head, i])[: keep - OPENING]
            places = torch.tensor([*range(OPENING), *sorted(body)])
            chosen.add(tuple(places.tolist()))
            expected = rotary.rotate(
                full.keys[layer][:, places],
                layer=layer,
                from_positions=places,
                to_positions=torch.arange(keep),
            )
            torch.testing.assert_close(start.keys[layer][head], expected[head], **EXACT)
            torch.testing.assert_close(start.values[layer][head], full.values[layer][head, places], **EXACT)
    assert start.biases is None
    assert len(chosen) == {"head": 4, "layer": 2}[per], "each head, or each layer, has a choice of its own"


def test_a_sliding_window_receives_nothing_behind_its_edge():
    """Mistral's window is 24: of 64 tokens, queries at 64 and on see those from 41 on at most, and these stay."""
    model = tiny_model("mistral")
    context = drawn_context(model, num_tokens=OPENING + 20)
    start = ImportantTokens().tensors(context)
    values = prefilled(model, context.context_ids).values[1]
    for head in range(2):
        kept = [int((values[head] - v).abs().sum(-1).argmin()) for v in start.values[1][head]]
        assert kept[:OPENING] == list(range(OPENING))
        assert min(kept[OPENING:]) > 40


@pytest.mark.parametrize("queries", ["self_study", "corpus"])
def test_a_corpus_longer_than_the_context_is_read_in_windows(model, queries):
    """900 tokens against a context of 512: what stays comes from more than one window, behind a single opening."""
    context = drawn_context(model, num_tokens=40, corpus_tokens=900)
    start = ImportantTokens(queries=queries, num_conversations=2).tensors(context)
    assert {x.shape[1] for x in (*start.keys, *start.values)} == {40}
    opening = prefilled(model, context.context_ids[:OPENING])
    for mine, other in zip(start.values, opening.values, strict=True):
        torch.testing.assert_close(mine[:, :OPENING], other, **EXACT)


def test_windows_keep_the_best_of_all(llama):
    """A prefill of each window by hand; the choice is by score over both, so neither half is owed a share."""
    context = drawn_context(llama, num_tokens=24, corpus_tokens=60)
    start = ImportantTokens(num_conversations=2, window_tokens=OPENING + 30).tensors(context)
    opening, corpus = context.context_ids[:OPENING], context.context_ids[OPENING:]
    values, scores = [], []
    for piece in (corpus[:30], corpus[30:]):
        ids = [*opening, *piece]
        part = drawn_context(llama, num_tokens=24)
        object.__setattr__(part, "context_ids", ids)
        values.append(prefilled(llama, ids).values[1][:, OPENING:])
        scores.append(attention_received(llama, part, drawn_conversations(2))[1][:, OPENING:])
    values, scores = torch.cat(values, 1), torch.cat(scores, 1)
    for head in range(2):
        best = scores[head].topk(20).indices.sort().values
        torch.testing.assert_close(start.values[1][head, OPENING:], values[head, best], **EXACT)


def test_the_choice_follows_its_seed(llama):
    strategy = ImportantTokens(max_query_tokens=3)
    one, same, other = (strategy.tensors(drawn_context(llama, 20, seed=s)) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.keys, same.keys, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.keys, other.keys, strict=True))


@pytest.mark.parametrize("num_tokens", [OPENING, 65])
def test_a_cartridge_without_place_or_positions_is_refused(llama, num_tokens):
    with pytest.raises(ValueError, match=f"num_tokens={num_tokens} of the 64 positions .*; choose 5 to 64"):
        ImportantTokens().tensors(drawn_context(llama, num_tokens))


def test_conversations_need_a_teacher_and_the_corpus_does_not(llama):
    with pytest.raises(ValueError, match=r"ImportantTokens\(self_study per head\) needs self-study"):
        ImportantTokens().tensors(drawn_context(llama, 20, self_study=None))
    ImportantTokens(queries="corpus").tensors(drawn_context(llama, 20, self_study=None))


def test_conversations_that_fill_the_context_are_refused(llama):
    long = lambda count: [drawn_tokens(509, 3)] * count  # noqa: E731
    with pytest.raises(ValueError, match="leave no place for the corpus: window_tokens=4096, max_position"):
        ImportantTokens().tensors(drawn_context(llama, 20, self_study=long))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": "mine"}, "queries='mine' must be one of self_study, corpus"),
        ({"per": "token"}, "per='token' must be one of head, layer"),
        ({"window_tokens": 0}, "window_tokens=0 must be at least 1"),
        ({"num_conversations": 0}, "num_conversations=0 must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ImportantTokens(**settings)
