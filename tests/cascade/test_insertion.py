"""The insertion of a whole chunk is the token-by-token rule: same tokens, same order, whatever the scores."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lit_cartridges.cascade.insertion import plan_insertion, stored_tokens
from lit_cartridges.cascade.shape import CascadeShape
from tests.cascade.reference import Sequential, oracle

EXAMPLE = [9, 3, 8, 1, 5, 2, 7, 6, 6, 4, 1, 0, 5, 8, 3, 3, 2, 9, 1, 4, 7]
NEWEST_FOUR = {t: list(range(max(1, t - 3), t + 1)) for t in range(21)}
EAGER = {
    **{5: [1], 6: [1, 2], 7: [1, 2, 3], 8: [1, 2, 3, 4], 9: [2, 3, 4, 5], 10: [2, 3, 4, 6], 11: [3, 4, 6, 7]},
    **{12: [3, 4, 6, 8], 13: [4, 6, 8, 9], 14: [4, 6, 8, 9], 15: [6, 8, 9, 11], 16: [6, 8, 9, 12]},
    **{17: [8, 9, 12, 13], 18: [8, 9, 12, 13], 19: [9, 12, 13, 15], 20: [9, 12, 13, 15]},
}
PATIENT = EAGER | {
    6: [2],
    7: [2, 3],
    8: [2, 4],
    9: [2, 4, 5],
    10: [2, 4, 6],
    11: [2, 4, 6, 7],
    12: [2, 4, 6, 8],
}


class Vectorised:
    """Tokens in the columns of a cascade [R, H, n], moved by the plan under test and by nothing else."""

    def __init__(self, shape: CascadeShape, rows: int, heads: int = 1) -> None:
        self.shape, self.heads = shape, heads
        self.seen = torch.zeros(rows, dtype=torch.long)
        self.counts = torch.zeros(rows, shape.cascades, dtype=torch.long)
        self.tokens = torch.zeros(rows, heads, 0, dtype=torch.long)

    def insert(self, scores: Tensor, real: Tensor) -> None:
        """``scores`` [R, H, tokens] of every token of the rows, by token; ``real`` [R, q] of the chunk."""
        rank = real.cumsum(1) - 1 + self.seen[:, None]
        chunk = rank.where(real, 0)[:, None].expand(-1, self.heads, -1)
        everything = torch.cat([self.tokens, chunk], dim=2)
        plan = plan_insertion(self.shape, self.seen, self.counts, real)
        columns = plan.columns(scores.gather(2, everything))
        self.tokens, self.seen, self.counts = everything.gather(2, columns), plan.seen, plan.counts

    def held(self, row: int, head: int = 0) -> list[int]:
        stored = int(stored_tokens(self.shape, self.seen, self.counts)[row])
        return self.tokens[row, head, :stored].tolist()

    def cache(self, level: int, row: int = 0, head: int = 0) -> list[int]:
        end = len(self.held(row)) - int(self.counts[row, :level].sum())
        return self.held(row, head)[end - int(self.counts[row, level]) : end]


def run_static(shape: CascadeShape, scores: list[float], stride: int) -> Vectorised:
    state, values = Vectorised(shape, rows=1), torch.tensor(scores, dtype=torch.float32)[None, None]
    for start in range(0, len(scores), stride):
        state.insert(values, torch.ones(1, min(stride, len(scores) - start), dtype=torch.bool))
    return state


@pytest.mark.parametrize(("eager_fill", "expected"), [(True, EAGER), (False, PATIENT)])
@pytest.mark.parametrize("stride", [1, 4, 21])
def test_worked_example(eager_fill, expected, stride):
    shape = CascadeShape(sink_tokens=1, cascades=2, window_tokens=4, eager_fill=eager_fill)
    for t in range(21):
        state = run_static(shape, EXAMPLE[: t + 1], stride)
        assert state.held(0)[0] == 0
        assert state.cache(0) == NEWEST_FOUR[t]
        assert state.cache(1) == expected.get(t, [])
    assert state.held(0) == [0, 9, 12, 13, 15, 17, 18, 19, 20]


def test_reference_gives_the_worked_example():
    for eager_fill, expected in ((True, EAGER), (False, PATIENT)):
        reference = Sequential(1, 2, 4, eager_fill)
        for t in range(21):
            reference.insert(EXAMPLE.__getitem__)
            assert reference.caches == [NEWEST_FOUR[t], expected.get(t, [])]


def test_closed_form_oracle():
    rng = random.Random(0)
    for case in range(200):
        cascades = rng.randint(1, 4)
        window, sinks = 2 ** (cascades - 1) * rng.randint(1, 3), rng.randint(0, 3)
        length = sinks + rng.randint(1, 2 * window * 2**cascades)
        scores = [rng.randint(0, 4) if case % 2 else rng.random() for _ in range(length)]
        shape = CascadeShape(sink_tokens=sinks, cascades=cascades, window_tokens=window, eager_fill=False)
        state = run_static(shape, scores, stride=rng.randint(-(-length // 5), length))
        assert [state.cache(i) for i in range(cascades)] == oracle(scores, cascades, window, sinks)


@settings(max_examples=80, deadline=None)
@given(
    sinks=st.integers(0, 4),
    cascades=st.integers(1, 5),
    window=st.integers(1, 6),
    eager_fill=st.booleans(),
    chunks=st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from(["full", "left", "right", "holes"])), max_size=8
    ),
    kinds=st.integers(1, 6),  # how many different scores there are: few make ties
    seed=st.integers(0, 2**16),
)
def test_equals_the_sequential_rule(sinks, cascades, window, eager_fill, chunks, kinds, seed):
    """Scores are drawn anew before every chunk; rows are padded differently; three token sets a row."""
    rows, heads, generator = 3, 3, torch.Generator().manual_seed(seed)
    shape = CascadeShape(sink_tokens=sinks, cascades=cascades, window_tokens=window, eager_fill=eager_fill)
    state = Vectorised(shape, rows, heads)
    references = [
        [Sequential(sinks, cascades, window, eager_fill) for _ in range(heads)] for _ in range(rows)
    ]
    for size, padding in chunks:
        real = torch.ones(rows, size, dtype=torch.bool)
        if padding == "holes":
            real = torch.rand(rows, size, generator=generator) < 0.6
        elif padding != "full":
            cuts = torch.randint(0, size + 1, (rows, 1), generator=generator)
            real = torch.arange(size) >= cuts if padding == "left" else torch.arange(size) < cuts
        shown = int((state.seen + real.sum(1)).max()) + 1
        scores = torch.randint(0, kinds, (rows, heads, shown), generator=generator).float() - 1
        state.insert(scores, real)
        for row in range(rows):
            for head in range(heads):
                for _ in range(int(real[row].sum())):
                    references[row][head].insert(scores[row, head].tolist().__getitem__)
                assert state.held(row, head) == references[row][head].held()
                assert [state.cache(i, row, head) for i in range(cascades)] == references[row][head].caches


def test_no_work_is_done_token_by_token():
    """As many tensor operations for a chunk of 600 tokens as for one of 40: nothing loops over them."""

    class Counting(TorchDispatchMode):
        operations = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.operations += 1
            return function(*args, **(kwargs or {}))

    shape, counted = CascadeShape(sink_tokens=2, cascades=4, window_tokens=8), []
    for size in (40, 600):
        state, scores = Vectorised(shape, rows=2), torch.rand(2, 1, 1000)
        state.insert(scores, torch.ones(2, 200, dtype=torch.bool))
        with Counting() as counting:
            state.insert(scores, torch.ones(2, size, dtype=torch.bool))
        counted.append(counting.operations)
    assert 0 < counted[0] == counted[1]


def test_span_and_capacity():
    shape = CascadeShape(sink_tokens=2, cascades=3, window_tokens=4, eager_fill=False)
    state = run_static(shape, [float(-j) for j in range(200)], stride=200)  # the first of each block wins
    oldest = state.held(0)[2]
    assert 199 - shape.span_tokens < oldest <= 199 - shape.span_tokens + 2**3 - 1
    assert len(state.held(0)) == shape.capacity_tokens == 14


def test_token_sets_may_differ_between_heads():
    shape = CascadeShape(sink_tokens=0, cascades=2, window_tokens=2)
    state = Vectorised(shape, rows=1, heads=2)
    rising = torch.arange(30.0)
    state.insert(torch.stack([rising, -rising])[None], torch.ones(1, 30, dtype=torch.bool))
    assert state.held(0, 0) != state.held(0, 1)
    assert state.cache(0, 0, 0) == state.cache(0, 0, 1) == [28, 29]


@pytest.mark.parametrize(
    ("setting", "value"), [("sink_tokens", -1), ("cascades", 0), ("window_tokens", 0), ("window_tokens", 1.5)]
)
def test_sizes_that_hold_nothing_are_refused(setting, value):
    sizes = {"sink_tokens": 1, "cascades": 2, "window_tokens": 4, setting: value}
    with pytest.raises(ValueError, match=f"{setting}={value}"):
        CascadeShape(**sizes)
