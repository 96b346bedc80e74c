"""What a model reads through a cascade: dense attention until something is lost, and afterwards exactly what is held."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_cartridges.attention.cache_argument import CACHE_NAME, cache_argument
from lit_cartridges.cascade import CascadingCache, cascade_prefill, reads_cascades, streamed_logprobs
from lit_cartridges.cascade.chunk_attention import BLOCK_ELEMENTS
from tests.cascade.models import dense, one_layer, random_model, read, tokens
from tests.cascade.reference import Sequential
from tests.tiny_models import ARCHITECTURES

TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}
REDUCE = {"mean": lambda s: sum(s) / len(s), "max": max, "median": lambda s: sorted(s)[(len(s) - 1) // 2]}


@pytest.mark.parametrize(
    ("stride", "sinks", "cascades", "window"), [(1, 0, 4, 7), (7, 3, 3, 9), (28, 0, 1, 28), (100, 28, 1, 1)]
)
def test_dense_attention_while_nothing_is_lost(model, stride, sinks, cascades, window):
    """All architectures, sliding windows of 24 and partial rotation among them."""
    ids = tokens(2, 28)
    cache = CascadingCache(
        config=model.config, sink_tokens=sinks, cascades=cascades, window_tokens=window, stride_tokens=stride
    )
    torch.testing.assert_close(read(model, cache, ids), dense(model, ids), **TOLERANCE)
    assert [layer.tokens[0, 0].tolist() for layer in cache.layers] == [list(range(28))] * len(cache.layers)


@torch.no_grad()
def naive(model, ids: list[int], stride: int, cascades: list[Sequential], ema: float, reduction: str):
    """A one-layer Llama through a cascade, by its own eager attention over the held tokens of each set in turn.

    ``cascades`` has one entry, or one per KV head. Yields per stride the logits of the first set's model call (what
    the model says if there is only one set), and per set the scores of all tokens so far.
    """
    heads = model.config.num_attention_heads // len(cascades)
    scores = [[0.0] * len(ids) for _ in cascades]
    for start in range(0, len(ids), stride):
        chunk = list(range(start, min(start + stride, len(ids))))
        logits = None
        for h, cascade in enumerate(cascades):
            seen = cascade.held() + chunk
            model.set_attn_implementation("eager")
            out = model(torch.tensor([[ids[j] for j in seen]]), output_attentions=True, use_cache=False)
            model.set_attn_implementation("sdpa")
            logits = out.logits[0, -len(chunk) :] if logits is None else logits
            p = out.attentions[0][0, h * heads : (h + 1) * heads, -len(chunk) :].double()
            weights = torch.tensor([ema ** (len(chunk) - 1 - a) for a in range(len(chunk))]).double()
            sums = torch.einsum("a,haj->jh", weights, p).tolist()
            for j, given_by_heads in zip(seen, sums, strict=True):
                scores[h][j] = scores[h][j] * ema ** len(chunk) + REDUCE[reduction](given_by_heads)
        for h, cascade in enumerate(cascades):
            for _ in chunk:
                cascade.insert(scores[h].__getitem__)
        yield logits, scores


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    sinks=st.integers(0, 3),
    cascades=st.integers(1, 4),
    window=st.integers(1, 5),
    eager_fill=st.booleans(),
    stride=st.integers(2, 9),
    reduction=st.sampled_from(["mean", "max", "median"]),
    ema=st.sampled_from([0.7, 0.99, 1.0]),
    kv_heads=st.sampled_from([1, 2, 4]),
    shared=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_cascade_is_the_rule_over_eager_attention(
    sinks, cascades, window, eager_fill, stride, reduction, ema, kv_heads, shared, seed
):
    model, ids = one_layer(kv_heads), tokens(1, 36, seed=seed)
    cache = CascadingCache(
        config=model.config,
        sink_tokens=sinks,
        cascades=cascades,
        window_tokens=window,
        eager_fill=eager_fill,
        head_reduction=reduction,
        shared_heads=shared,
        ema_factor=ema,
        stride_tokens=stride,
    )
    sets = 1 if shared else kv_heads
    references = [Sequential(sinks, cascades, window, eager_fill) for _ in range(sets)]
    with torch.no_grad(), reads_cascades(model):
        pass  # the model is tried out before `naive` changes its attention function
    for start, (logits, scores) in zip(
        range(0, 36, stride), naive(model, ids[0].tolist(), stride, references, ema, reduction), strict=True
    ):
        ours = read(model, cache, ids[:, start : start + stride])[0]
        if sets == 1:
            torch.testing.assert_close(ours, logits, **TOLERANCE)
        layer = cache.layers[0]
        for h, reference in enumerate(references):
            assert layer.tokens[0, h].tolist() == reference.held()
            expected = torch.tensor([scores[h][j] for j in reference.held()], dtype=torch.float32)
            torch.testing.assert_close(layer.scores[0, h], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_scores_do_not_depend_on_the_stride_under_mean_reduction(llama, shared):
    ids, scores = tokens(1, 30), []
    for stride in (1, 7, 30):
        cache = CascadingCache(
            config=llama.config,
            total_tokens=32,
            head_reduction="mean",
            shared_heads=shared,
            ema_factor=0.95,
            stride_tokens=stride,
        )
        read(llama, cache, ids)
        scores.append([layer.scores for layer in cache.layers])
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores[0], scores[2], atol=1e-5, rtol=1e-4)


def test_one_cascade_is_a_sliding_window():
    """Without sinks, re-indexed distances are the true ones: Mistral's own window says what to expect."""
    windowed, full = (random_model("mistral", sliding_window=w) for w in (11, None))
    ids = tokens(1, 40)
    cache = CascadingCache(config=full.config, sink_tokens=0, cascades=1, window_tokens=10, stride_tokens=1)
    assert cache.method == "StreamingLLM"
    torch.testing.assert_close(read(full, cache, ids), dense(windowed, ids), **TOLERANCE)


def test_one_cascade_is_a_sliding_window_behind_sinks():
    """A one-layer Llama says what it says of the sinks, the last nine tokens and the new one, as one short text."""
    model, ids = one_layer(2), tokens(1, 40)
    cache = CascadingCache(config=model.config, sink_tokens=3, cascades=1, window_tokens=9, stride_tokens=1)
    ours = read(model, cache, ids)[0]
    for t in range(40):
        seen = [*range(min(3, t)), *range(max(3, t - 9), t), t] if t >= 3 else [*range(t + 1)]
        torch.testing.assert_close(ours[t], dense(model, ids[:, seen])[0, -1], **TOLERANCE)


def test_one_cascade_holds_the_sinks_and_the_last_tokens(llama):
    cache = CascadingCache(config=llama.config, sink_tokens=3, cascades=1, total_tokens=13, stride_tokens=6)
    read(llama, cache, tokens(2, 100))
    for layer in cache.layers:
        assert layer.tokens.flatten(0, 1).tolist() == [[0, 1, 2, *range(90, 100)]] * 4


def test_layers_of_different_sizes(llama):
    ids = tokens(1, 60)
    cache = CascadingCache(config=llama.config, cascades=[1, 4], total_tokens=[64, 84], stride_tokens=9)
    torch.testing.assert_close(read(llama, cache, ids), dense(llama, ids), **TOLERANCE)
    read(llama, cache, tokens(1, 60, seed=1))
    assert [layer.keys.shape[2] for layer in cache.layers] == [64, 84]


def test_left_padded_rows_read_what_they_read_alone(model):
    lengths, longest = (20, 5, 14), 20
    rows = [tokens(1, n, seed=n) for n in lengths]
    batch = torch.cat([torch.nn.functional.pad(row, (longest - row.shape[1], 0)) for row in rows])
    mask = torch.stack([torch.arange(longest) >= longest - n for n in lengths])
    options = {"config": model.config, "sink_tokens": 1, "cascades": 2, "window_tokens": 3}
    together = CascadingCache(**options, stride_tokens=1)
    logits = read(model, together, batch, mask=mask)
    for i, row in enumerate(rows):
        alone = CascadingCache(**options, stride_tokens=1)
        expected = read(model, alone, row)
        torch.testing.assert_close(logits[i, longest - lengths[i] :], expected[0], **TOLERANCE)
        for ours, theirs in zip(together.layers, alone.layers, strict=True):
            stored = int(theirs.stored()[0])
            assert ours.tokens[i, :, :stored].tolist() == theirs.tokens[0].tolist()
            torch.testing.assert_close(ours.scores[i, :, :stored], theirs.scores[0], atol=1e-4, rtol=1e-4)


def test_padding_in_wide_strides_counts_for_nothing(llama):
    """A row of 3 strides and 2 tokens, padded by 1 stride and 3 tokens to the left, against the same cuts alone."""
    row, stride = tokens(1, 26), 8
    options = {
        "config": llama.config,
        "sink_tokens": 1,
        "cascades": 2,
        "window_tokens": 5,
        "stride_tokens": stride,
    }
    padded = CascadingCache(**options)
    mask = torch.arange(37)[None] >= 11
    ours = read(llama, padded, torch.nn.functional.pad(row, (11, 0)), mask=mask)[:, 11:]
    alone, expected = CascadingCache(**options), []
    for start, stop in ((0, 5), (5, 13), (13, 21), (21, 26)):
        expected.append(read(llama, alone, row[:, start:stop]))
    torch.testing.assert_close(ours, torch.cat(expected, dim=1), **TOLERANCE)
    torch.testing.assert_close(padded.layers[1].scores, alone.layers[1].scores, atol=1e-5, rtol=1e-4)


def test_a_call_of_any_length_is_its_strides(llama):
    ids, caches = tokens(2, 90), []
    for calls in (10, 30, 90):
        caches.append(CascadingCache(config=llama.config, total_tokens=24, stride_tokens=10))
        logits = read(llama, caches[-1], ids, stride=calls)
        if calls == 10:
            expected = logits
        torch.testing.assert_close(logits, expected, **TOLERANCE)
        assert torch.equal(caches[0].layers[1].tokens, caches[-1].layers[1].tokens)
    prefilled = CascadingCache(config=llama.config, total_tokens=24, stride_tokens=10)
    cascade_prefill(llama, prefilled, ids)
    assert torch.equal(prefilled.layers[1].tokens, caches[0].layers[1].tokens)
    assert prefilled.get_seq_length() == 90


def test_blocks_of_queries_change_nothing(llama, monkeypatch):
    ids, results = tokens(2, 40), []
    for elements in (2**24, 1500):
        monkeypatch.setitem(BLOCK_ELEMENTS, "cpu", elements)
        cache = CascadingCache(config=llama.config, total_tokens=20, stride_tokens=16)
        results.append((read(llama, cache, ids), [layer.scores for layer in cache.layers]))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)


def test_streamed_logprobs_score_every_token_once(llama):
    ids = tokens(2, 41)
    mask = torch.arange(41)[None] >= torch.tensor([[0], [6]])
    cache = CascadingCache(config=llama.config, total_tokens=48, stride_tokens=8)
    ours = streamed_logprobs(llama, cache, ids, mask)
    for row, cut in ((0, 0), (1, 6)):
        logits = dense(llama, ids[row : row + 1, cut:])[0]
        expected = logits[:-1].log_softmax(-1).gather(1, ids[row, cut + 1 :, None])[:, 0]
        torch.testing.assert_close(ours[row, cut:], expected, **TOLERANCE)
        assert torch.equal(ours[row, :cut], torch.zeros(cut))


def test_sixteen_bit_models(llama):
    model = random_model("llama").to(torch.bfloat16)
    ids = tokens(1, 40)
    cache = CascadingCache(config=model.config, total_tokens=44, stride_tokens=8)
    torch.testing.assert_close(read(model, cache, ids), dense(model, ids), atol=0.15, rtol=0.05)
    assert cache.layers[0].scores.dtype == torch.float32
    assert cache.layers[0].keys.dtype == torch.bfloat16


def test_the_model_is_its_own_again(llama):
    ids, before = tokens(1, 30), llama.config._attn_implementation
    expected = dense(llama, ids)
    cache = CascadingCache(config=llama.config, total_tokens=12, stride_tokens=8)
    with pytest.raises(KeyError), reads_cascades(llama):
        llama(ids, **cache_argument(cache))
        raise KeyError
    assert llama.config._attn_implementation == before
    assert not llama.base_model._forward_hooks and not llama.base_model._forward_pre_hooks
    assert not llama.base_model.rotary_emb._forward_hooks
    assert torch.equal(dense(llama, ids), expected)


def test_calls_that_cannot_be_read_are_refused(llama):
    ids, cache = tokens(1, 5), CascadingCache(config=llama.config, total_tokens=12, stride_tokens=8)
    with pytest.raises(RuntimeError, match="inside `with reads_cascades"):
        llama(ids, **cache_argument(cache))
    with reads_cascades(llama):
        with pytest.raises(ValueError, match=f"{CACHE_NAME} is a NoneType"):
            llama(ids, use_cache=False)
        llama(ids, **cache_argument(cache))
        with pytest.raises(ValueError, match="holds 1 rows and the input has 2"):
            llama(tokens(2, 5), **cache_argument(cache))
        with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 3\) for 5 new tokens"):
            llama(ids, attention_mask=torch.tensor([[0, 1, 1]]), **cache_argument(cache))
    other = CascadingCache(config=one_layer(2).config, total_tokens=12, stride_tokens=8)
    with pytest.raises(ValueError, match="has 1 layers and LlamaForCausalLM has 2"):
        read(llama, other, ids)


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_scores_are_the_probabilities_of_the_models_eager_attention(name):
    """Of capped scores, and without the share that a sink takes."""
    model, ids = random_model(name, **ARCHITECTURES[name]), tokens(1, 20)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("sinks"):
            torch.nn.init.normal_(parameter)
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(ids, output_attentions=True, use_cache=False).attentions
    model.set_attn_implementation(own)
    cache = CascadingCache(
        config=model.config, cascades=1, window_tokens=20, stride_tokens=20, ema_factor=1.0
    )
    read(model, cache, ids)
    for layer, probabilities in zip(cache.layers, attentions, strict=True):
        expected = (
            probabilities[0].sum(1).unflatten(0, (2, 2)).amax(1)
        )  # [KV, keys]; the default reduction is "max"
        torch.testing.assert_close(layer.scores[0], expected, **TOLERANCE)
        assert (probabilities.sum() < 79.9) == (name == "gpt_oss")
