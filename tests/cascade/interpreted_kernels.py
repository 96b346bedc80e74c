"""The Triton kernels under Triton's interpreter on the CPU, against the plain path; `test_triton_attention` starts this."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_cartridges.cascade import CascadingCache, streamed_logprobs, triton_attention
from lit_cartridges.cascade.chunk_attention import attend
from lit_cartridges.cascade.triton_attention import Tiles, attend_on_chip, attention, column_sums
from tests.cascade.kernel_cases import CASES, Case
from tests.cascade.models import read, tokens
from tests.gpu.agreement import exact_model

SMALL = Tiles(queries=16, keys=16, num_warps=4, num_stages=2)
TOLERANCE = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def test_the_interpreter_runs():
    """All below would say nothing of kernels otherwise."""
    assert triton.knobs.runtime.interpret


def exact_lse(case: Case) -> torch.Tensor:
    """In fp64, with what is hidden written out key by key."""
    (query, key, _), options = case.tensors(), case.options()
    layout, (softcap, sinks) = options["layout"], options["extras"]
    scores = query.double() @ key.double().repeat_interleave(case.G, 1).transpose(2, 3) * options["scale"]
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    q, held = case.q, case.held
    own = torch.arange(q)
    stored = torch.full((case.R,), held) if layout.stored is None else layout.stored
    real = torch.ones(case.R, q, dtype=torch.bool) if layout.real is None else layout.real
    kept = torch.cat([torch.arange(held) < stored[:, None], real], dim=1)  # (R, m)
    places = torch.cat([torch.arange(held).expand(case.R, -1), layout.positions], dim=1)
    earlier = torch.cat([torch.ones(q, held, dtype=torch.bool), own <= own[:, None]], dim=1)
    near = layout.positions[:, :, None] - places[:, None] < (case.window or 10**9)
    scores = scores.where((kept[:, None] & earlier & near)[:, None], -torch.inf)
    if sinks is not None:
        column = sinks.double()[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], dim=3)
    return scores.logsumexp(-1)


def require_agreement(case: Case, tiles: Tiles = SMALL) -> None:
    """Output and sums of the plain path, and the log-sum-exp written out."""
    (query, key, value), options = case.tensors(), case.options()
    out, sums = attend(query, key, value, **options)
    ours, lse = attention(query, key, value, **options, tiles=tiles, splits=case.splits)
    our_sums = column_sums(query, key, lse, **options, tiles=tiles)
    assert ours.dtype == value.dtype and ours.shape == out.shape and ours.isfinite().all()
    real = options["layout"].weights[:, None, :, None] > 0
    # A capped logit is rounded as a number of the cap's size, whatever its own.
    rounding = (case.softcap or 0) * torch.finfo(torch.float32).eps
    near = dict.fromkeys(("atol", "rtol"), TOLERANCE[case.dtype] + rounding)
    torch.testing.assert_close(ours.where(real, 0), out.where(real, 0), **near)
    close = dict.fromkeys(("atol", "rtol"), 5e-6 + rounding)  # logits are rounded in no dtype
    torch.testing.assert_close(our_sums, sums, **close)
    exact = exact_lse(case).float()
    torch.testing.assert_close(lse.where(real[..., 0], 0), exact.where(real[..., 0], 0), **close)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_output_log_sum_exp_and_sums(case):
    require_agreement(case)


@pytest.mark.parametrize("tiles", [pytest.param((16, 64), marks=pytest.mark.slow), (32, 16), (128, 64)])
def test_tiles_of_any_size(tiles):
    queries, keys = tiles
    large = Tiles(queries=queries, keys=keys, num_warps=4, num_stages=2)
    require_agreement(Case(R=2, KV=1, q=40, held=41, D=16, V=16, padding=3, window=35), large)
    require_agreement(Case(KV=1, q=40, held=70, D=16, V=16), large)


def test_a_query_that_sees_one_key_far_above_the_others():
    """Weights of one and of nothing, where a running maximum that is not kept would overflow."""
    query, key, value = Case().tensors()
    options = Case().options()
    key[:, :, 30] = 400 * query[:, ::2, 3]
    out, sums = attend(query, key, value, **options)
    ours, our_sums = attend_on_chip(query, key, value, **options)
    torch.testing.assert_close(ours, out, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(our_sums, sums, atol=2e-5, rtol=2e-5)


@pytest.fixture
def on_chip(monkeypatch):
    """Lets CPU tensors suit the kernels, with small tiles; counts what they ran."""
    runs = []

    def counted(*args, **keywords):
        runs.append(args[0].shape)
        return attend_on_chip(*args, **keywords)

    monkeypatch.setattr(triton_attention, "tiles_of", lambda *_: replace(SMALL, keys=32))
    monkeypatch.setattr(triton_attention, "attend_on_chip", counted)
    return monkeypatch, runs


STREAMS = {
    "per head, max": {},
    "per head, mean": {"head_reduction": "mean", "ema_factor": 0.9},
    "shared, median": {"head_reduction": "median", "shared_heads": True},
    "three sub-caches of five": {
        "cascades": 3,
        "window_tokens": 5,
        "total_tokens": None,
        "eager_fill": False,
    },
    "layers of two sizes": {"total_tokens": [10, 18]},
}

LESS = {"per head, mean", "layers of two sizes"}


def streamed(model, options: dict, ids: torch.Tensor, mask: torch.Tensor | None = None):
    options = {"cascades": 4, "sink_tokens": 2, "total_tokens": 14, "stride_tokens": 12} | options
    cache = CascadingCache(config=model.config, **options)
    return streamed_logprobs(model, cache, ids, mask), cache


def require_same_stream(on_chip, model, options, ids, mask=None):
    monkeypatch, runs = on_chip
    expected, plain = streamed(model, options, ids, mask)
    assert not runs
    monkeypatch.setattr(triton_attention, "DEVICE_TYPES", {"cpu"})
    ours, cache = streamed(model, options, ids, mask)
    assert len(runs) == len(cache.layers) * -(-ids.shape[1] // cache.stride_tokens)
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-4)
    for layer, other in zip(cache.layers, plain.layers, strict=True):
        for r, stored in enumerate(other.stored().tolist()):
            assert torch.equal(layer.tokens[r, :, :stored], other.tokens[r, :, :stored])
            torch.testing.assert_close(
                layer.scores[r, :, :stored], other.scores[r, :, :stored], atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=pytest.mark.slow if name in LESS else ())
        for name, options in STREAMS.items()
    ],
)
def test_a_stream_is_the_plain_paths(on_chip, options):
    """Log-probabilities, the tokens kept, and their scores; four query heads on two key heads, more lost than held."""
    require_same_stream(on_chip, exact_model("llama"), options, tokens(1, 36))


@pytest.mark.parametrize(
    "name", [*(pytest.param(x, marks=pytest.mark.slow) for x in ("mistral", "gemma2")), "gpt_oss"]
)
def test_windows_soft_caps_and_sinks_of_models(on_chip, name):
    require_same_stream(on_chip, exact_model(name), {}, tokens(1, 30))


def test_padded_rows_in_a_stream(on_chip):
    mask = torch.arange(30)[None] >= torch.tensor([[0], [13]])
    require_same_stream(on_chip, exact_model("mistral"), {}, tokens(2, 30), mask)


def test_single_tokens_while_a_cascade_fills(on_chip):
    """In a full one they are read by slots."""
    model = exact_model("llama")
    logits = []
    for devices in (set(), {"cpu"}):
        on_chip[0].setattr(triton_attention, "DEVICE_TYPES", devices)
        cache = CascadingCache(config=model.config, total_tokens=12, sink_tokens=4, stride_tokens=8)
        read(model, cache, tokens(1, 8))
        logits.append(read(model, cache, tokens(1, 2, seed=1), stride=1))
    assert on_chip[1][-1][2] == 1
    torch.testing.assert_close(logits[1], logits[0], atol=2e-4, rtol=1e-4)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    case=st.builds(
        Case,
        R=st.integers(1, 2),
        KV=st.integers(1, 2),
        G=st.integers(1, 4),
        q=st.integers(1, 40),
        held=st.integers(0, 60),
        D=st.sampled_from([16, 40, 64, 80, 96, 128]),
        V=st.sampled_from([16, 64, 96]),
        dtype=st.sampled_from(list(TOLERANCE)),
        unused=st.sampled_from([0, 0, 7, 60]),
        padding=st.sampled_from([0, 0, 3, 40]),
        window=st.none() | st.integers(1, 70),
        softcap=st.none() | st.floats(0.5, 50),
        sinks=st.booleans(),
        ema=st.floats(0.5, 1),
        splits=st.none() | st.integers(1, 5),
    ),
    queries=st.sampled_from([16, 32]),
    keys=st.sampled_from([16, 32]),
)
def test_anything(case, queries, keys):
    require_agreement(case, Tiles(queries=queries, keys=keys, num_warps=4, num_stages=2))
