"""Decoding by captured steps: recorded operators in the place of a CUDA graph (see `recorded_graph`)."""

from __future__ import annotations

import copy
from contextlib import nullcontext, suppress

import pytest
import torch
from torch.utils._pytree import tree_map

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade import CascadingCache, decodes_cascade, reads_cascades
from lit_cartridges.models import step_graphs
from tests.cascade.models import read, tokens
from tests.cascade.test_ring import require_same_held
from tests.dispatched import Dispatched
from tests.gpu.agreement import exact_model
from tests.recorded_graph import recorded


@pytest.fixture
def captures(monkeypatch):
    """Steps are captured on the CPU too; every one of them is noted."""
    found = []
    monkeypatch.setattr(step_graphs, "captures", lambda device: True)
    monkeypatch.setattr(step_graphs, "captured", lambda *step: found.append(recorded(*step)) or found[-1])
    return found


def prefilled(model, rows=1, **options) -> CascadingCache:
    """Full, after 40 tokens, or fewer in later rows."""
    sizes = {"sink_tokens": 2, "cascades": 3, "total_tokens": 14, "stride_tokens": 8}
    cache = CascadingCache(config=model.config, **(sizes | options))
    mask = torch.arange(40) >= 3 * torch.arange(rows)[:, None]
    read(model, cache, tokens(rows, 40), mask=mask)
    return cache


def decoded(model, cache, ids, **options):
    with decodes_cascade(model, cache, **options) as step:
        return torch.stack([step(ids[:, i : i + 1]) for i in range(ids.shape[1])], dim=1)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss"])
@pytest.mark.parametrize(
    "options",
    [
        {"rows": 2},
        {"head_reduction": "mean", "ema_factor": 0.9, "eager_fill": False},
        {"shared_heads": True, "head_reduction": "median"},
        {"total_tokens": [10, 17], "cascades": [4, 5]},
    ],
    ids=["rows of unequal length", "per head", "shared", "two sizes"],
)
def test_replays_are_steps_made_anew(captures, name, options):
    """Over more tokens than the circular buffers are long, and all ways a token can go."""
    model, ids = exact_model(name), tokens(options.get("rows", 1), 40, seed=1)
    cache = prefilled(model, **options)
    other = copy.deepcopy(cache)
    expected = decoded(model, other, ids, graphs=False)
    assert not captures
    ours = decoded(model, cache, ids)
    assert len(captures) == 1
    torch.testing.assert_close(ours, expected, atol=0, rtol=0)
    assert cache.get_seq_length() == other.get_seq_length() == 80
    require_same_held(cache, other)


def test_it_is_the_models_own_forward_call(captures, llama):
    cache, ids = prefilled(llama), tokens(1, 20, seed=1)
    expected = read(llama, copy.deepcopy(cache), ids, stride=1)
    torch.testing.assert_close(decoded(llama, cache, ids), expected, atol=1e-5, rtol=1e-5)


def test_a_cascade_that_is_not_full_yet(captures, llama):
    ids = tokens(1, 30)
    sizes = {"sink_tokens": 2, "cascades": 3, "total_tokens": 14, "stride_tokens": 8}
    ours, theirs = (CascadingCache(config=llama.config, **sizes) for _ in range(2))
    expected = decoded(llama, theirs, ids, graphs=False)
    torch.testing.assert_close(decoded(llama, ours, ids), expected, atol=0, rtol=0)
    assert len(captures) == 1
    require_same_held(ours, theirs)


def test_who_looks_in_between_is_noticed(captures, llama):
    cache, ids = prefilled(llama), tokens(1, 30, seed=1)
    other = copy.deepcopy(cache)
    found = []
    for cascade, graphs in ((cache, True), (other, False)):
        with decodes_cascade(llama, cascade, graphs=graphs) as step:
            logits = [step(ids[:, i : i + 1]) for i in range(10)]
            cascade.layers[1].tokens  # noqa: B018
            logits += [step(ids[:, i : i + 1]) for i in range(10, 20)]
            read(llama, cascade, tokens(1, 5, seed=2))
            logits += [step(ids[:, i : i + 1]) for i in range(20, 30)]
        found.append(torch.cat(logits))
    assert len(captures) == 3
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    require_same_held(cache, other)


def test_rows_that_change_are_captured_anew(captures, llama):
    cache = prefilled(llama)
    with decodes_cascade(llama, cache) as step:
        for i in range(5):
            step(tokens(1, 1, seed=i))
        cache.batch_repeat_interleave(2)
        for i in range(5):
            logits = step(tokens(2, 1, seed=i))
    assert len(captures) == 2 and logits.shape == (2, llama.config.vocab_size)


def test_a_model_that_asks_the_device_is_named_and_goes_on_without(captures, llama):
    cache, ids = prefilled(llama), tokens(1, 20, seed=1)
    expected = decoded(llama, copy.deepcopy(cache), ids, graphs=False)
    hook = llama.model.layers[1].register_forward_pre_hook(lambda _, args: args[0].sum().item() and None)
    with pytest.warns(UserWarning, match="LlamaForCausalLM: .* waits for the device in _local_scalar_dense"):
        found = decoded(llama, cache, ids)
    hook.remove()
    assert not captures
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


class Late:
    """A hook that breaks off a step's third run, which is the capture."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.runs = error, 0

    def __call__(self, *_) -> None:
        self.runs += 1
        if self.runs == 3:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: not permitted"), KeyboardInterrupt()], ids=repr)
def test_a_capture_that_breaks_off_has_read_nothing(captures, llama, error):
    cache, ids = prefilled(llama), tokens(1, 20, seed=1)
    other = copy.deepcopy(cache)
    expected = decoded(llama, other, ids, graphs=False)
    hook, found = llama.model.layers[1].register_forward_pre_hook(Late(error)), []
    named = (
        pytest.warns(UserWarning, match="not permitted") if isinstance(error, RuntimeError) else nullcontext()
    )
    with named, decodes_cascade(llama, cache) as step:
        while len(found) < 20:
            with nullcontext() if isinstance(error, RuntimeError) else suppress(KeyboardInterrupt):
                found.append(step(ids[:, len(found)][:, None]))
    hook.remove()
    assert len(captures) == (not isinstance(error, RuntimeError))
    torch.testing.assert_close(torch.stack(found, dim=1), expected, atol=0, rtol=0)
    assert cache.get_seq_length() == other.get_seq_length() == 60
    require_same_held(cache, other)


def test_a_mask_is_read_where_it_is(llama):
    """As `generate` hands it down, over all tokens so far: nothing asks whether it hides anything."""
    cache, ids = prefilled(llama), tokens(1, 8, seed=1)
    read(llama, cache, ids[:, :1])
    mask = torch.ones(1, 48, dtype=torch.long)
    with torch.no_grad(), reads_cascades(llama):
        for i in range(1, 8):
            part, seen = ids[:, i : i + 1], mask[:, : 41 + i]
            with Dispatched() as mode:
                llama(part, attention_mask=seen, **cache_argument(cache))
            assert not mode.waits
    expected = prefilled(llama)
    read(llama, expected, ids, stride=1)
    require_same_held(cache, expected)


class _Sequence(Dispatched):
    """Also what each operator is given, but for the contents of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        told = tree_map(lambda x: tuple(x.shape) if isinstance(x, torch.Tensor) else x, (args, kwargs))
        self.calls.append((str(func), repr(told)))
        return super().__torch_dispatch__(func, types, args, kwargs)


def test_two_steps_are_the_same_operators_on_the_same_memory(llama):
    """Steps that hand on differently, in a cascade whose buffers go round: Python gives no number that changes."""
    cache, ids = prefilled(llama, total_tokens=11), tokens(1, 20, seed=1)
    found, places = [], []
    with decodes_cascade(llama, cache) as step:
        for i in range(3):
            step(ids[:, i : i + 1])
        for i in range(3, 20):
            token = ids[:, i : i + 1]
            with _Sequence() as calls:
                step(token)
            found.append(calls.calls)
            assert not calls.waits
            rings = [layer.ring for layer in cache.layers]
            held = [
                (r.held, r.turned, r.front, r.scores, r.tokens, r.clock.heads, r.clock.seen) for r in rings
            ]
            places.append([x.data_ptr() for tensors in held for x in tensors])
    for calls in found:
        assert [x for x in zip(calls, found[0], strict=True) if x[0] != x[1]] == []
    assert all(x == places[0] for x in places)
