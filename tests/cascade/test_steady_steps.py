"""Steps from memory are those that would be made anew."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_cartridges.cascade import CascadingCache
from lit_cartridges.cascade.cascade_step import CascadeStep
from lit_cartridges.cascade.shape import CascadeShape
from lit_cartridges.cascade.steady_steps import MOST_STEPS, SteadySteps
from tests.cascade.models import read, tokens


def contents(step):
    """All numbers of a step, in nested lists."""
    if isinstance(step, torch.Tensor):
        return step.dtype, step.tolist()
    if isinstance(step, tuple):
        return [contents(x) for x in step]
    if dataclasses.is_dataclass(step):
        return {field.name: contents(getattr(step, field.name)) for field in dataclasses.fields(step)}
    return step


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    sinks=st.integers(0, 3),
    cascades=st.integers(1, 4),
    window=st.integers(1, 5),
    eager_fill=st.booleans(),
    stride=st.integers(1, 9),
    ema_factor=st.sampled_from([0.7, 1.0]),
    seed=st.integers(0, 99),
    padded=st.booleans(),
)
def test_any_stream(sinks, cascades, window, eager_fill, stride, ema_factor, seed, padded):
    """Two rows, which padding sets apart."""
    shape = CascadeShape(sink_tokens=sinks, cascades=cascades, window_tokens=window, eager_fill=eager_fill)
    generator = torch.Generator().manual_seed(seed)
    memory, seen = SteadySteps(), torch.zeros(2, dtype=torch.long)
    counts = torch.zeros(2, cascades, dtype=torch.long)
    for _ in range(30):
        real = torch.ones(2, stride, dtype=torch.bool)
        if padded:
            real = torch.rand(2, stride, generator=generator) < 0.8
        given = shape, seen, counts, real
        options = {"ema_factor": ema_factor, "device": torch.device("cpu")}
        expected = CascadeStep.of(*given, **options)
        assert contents(memory.of(*given, **options)) == contents(expected)
        seen, counts = expected.plan.seen, expected.plan.counts


@pytest.mark.parametrize(("stride", "made"), [(8, 1), (4, 2), (2, 4)])
def test_a_steady_stream_makes_few(llama, monkeypatch, stride, made):
    """4 sub-caches: strides of 8 make one step, those of 4 two in turn, and those of 2 four."""
    cache = CascadingCache(config=llama.config, sink_tokens=0, cascades=4, total_tokens=8, stride_tokens=8)
    read(llama, cache, tokens(1, 128))
    calls, real = [], CascadeStep.of
    monkeypatch.setattr(CascadeStep, "of", lambda *a, **k: calls.append(a) or real(*a, **k))
    cache.steps = SteadySteps()
    read(llama, cache, tokens(1, 64), stride)
    assert len(calls) == made


def test_memory_is_bounded(llama):
    cache = CascadingCache(config=llama.config, sink_tokens=0, cascades=7, total_tokens=7, stride_tokens=1)
    read(llama, cache, tokens(1, 60))
    assert len(cache.steps._steps) == MOST_STEPS
