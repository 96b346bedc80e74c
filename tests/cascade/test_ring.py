"""Single tokens in a full cascade, read by slots: what reading them by columns gives, in logits and in what is held."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.extras import PLAIN
from lit_cartridges.cascade import CascadingCache, reads_cascades
from lit_cartridges.cascade.cascade_layer import CascadeLayer
from lit_cartridges.cascade.cascade_step import CascadeStep
from lit_cartridges.cascade.ring_clock import RingClock
from lit_cartridges.cascade.rotation import Rotation, Turn
from lit_cartridges.cascade.shape import CascadeShape
from tests.cascade.models import one_layer, random_model, read, tokens
from tests.cascade.test_rotation import ROPE_SCALINGS
from tests.gpu.agreement import exact_model

TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}
NAMES = ("keys", "values", "scores", "tokens", "seen", "counts")


def by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read by slots: the reference."""
    monkeypatch.setattr(CascadeLayer, "is_full", False)


def require_same_held(ours: CascadingCache, theirs: CascadingCache) -> None:
    for mine, reference in zip(ours.layers, theirs.layers, strict=True):
        for name in NAMES:
            torch.testing.assert_close(getattr(mine, name), getattr(reference, name), **TOLERANCE)


def decoded(model, prompt, more, *, mask=None, later=None, stride=8, **options):
    """A cache that has read ``prompt`` in strides, and then ``more`` token by token; and the tokens' logits."""
    sizes = {"sink_tokens": 2, "cascades": 3, "total_tokens": 14, "stride_tokens": stride}
    cache = CascadingCache(config=model.config, **(sizes | options))
    read(model, cache, prompt, mask=mask)
    return cache, read(model, cache, more, stride=1, mask=later)


def require_as_by_columns(model, prompt, more, **options):
    ours, logits = decoded(model, prompt, more, **options)
    assert all(layer.ring is not None for layer in ours.layers)
    with pytest.MonkeyPatch.context() as monkeypatch:
        by_columns(monkeypatch)
        theirs, expected = decoded(model, prompt, more, **options)
        assert all(layer.ring is None for layer in theirs.layers)
    if (later := options.get("later")) is not None:  # what padding gives means nothing
        logits, expected = (x.where(later[..., None], 0) for x in (logits, expected))
    torch.testing.assert_close(logits, expected, **TOLERANCE)
    require_same_held(ours, theirs)
    return ours


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    sinks=st.integers(0, 3),
    cascades=st.integers(1, 4),
    window=st.integers(1, 5),
    eager_fill=st.booleans(),
    reduction=st.sampled_from(["mean", "max", "median"]),
    ema=st.sampled_from([0.7, 0.9999, 1.0]),
    kv_heads=st.sampled_from([1, 2, 4]),
    shared=st.booleans(),
    rows=st.integers(1, 3),
    padding=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_any_cascade(
    sinks, cascades, window, eager_fill, reduction, ema, kv_heads, shared, rows, padding, seed
):
    """Rows of unequal length, some of whose later tokens are padding."""
    enough = sinks + (window + 1) * 2**cascades
    prompt, more = tokens(rows, enough + padding * rows, seed=seed), tokens(rows, 20, seed=seed + 1)
    mask = torch.arange(prompt.shape[1]) >= padding * torch.arange(rows)[:, None]
    later = torch.rand(rows, 20, generator=torch.Generator().manual_seed(seed)) < 0.8
    require_as_by_columns(
        one_layer(kv_heads),
        prompt,
        more,
        mask=mask,
        later=later,
        sink_tokens=sinks,
        cascades=cascades,
        total_tokens=sinks + cascades * window,
        eager_fill=eager_fill,
        head_reduction=reduction,
        ema_factor=ema,
        shared_heads=shared,
    )


@pytest.mark.parametrize("window", [3, 9, 14, 15, 40])
def test_windows_over_what_is_held(window):
    model = random_model("mistral", sliding_window=window)
    require_as_by_columns(model, tokens(2, 40), tokens(2, 20, seed=1))


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_soft_caps_and_sinks_of_models(name):
    require_as_by_columns(exact_model(name), tokens(1, 40), tokens(1, 12, seed=1))


ROTATIONS = {
    **{name: ("llama", {"rope_parameters": {"rope_theta": 1e4, **x}}) for name, x in ROPE_SCALINGS.items()},
    "dynamic, far beyond": (
        "llama",
        {
            "max_position_embeddings": 32,
            "rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0},
        },
    ),
    "partial": ("phi", {"partial_rotary_factor": 0.5}),
    "none in a layer": ("smollm3", {"no_rope_layers": [1, 0]}),
    "neighbours": ("glm", {"head_dim": 8, "partial_rotary_factor": 0.5}),
    "half as wide tables": ("gpt_oss", {"head_dim": 16}),
}


@pytest.mark.parametrize("name", ROTATIONS)
def test_ways_to_rotate(name):
    kind, options = ROTATIONS[name]
    sizes = {"total_tokens": 17, "stride_tokens": 8}
    require_as_by_columns(random_model(kind, **options), tokens(1, 60), tokens(1, 25, seed=1), **sizes)


def test_rows_beyond_a_models_positions(llama):
    """Those that its own tables have, as if it knew so many."""
    rotation, like = Rotation.of(llama), torch.zeros(1, 1, 1, 8)
    turn, longer = rotation.turn(0, like, 40, 30), rotation.turn(0, like, 70)
    for ours, theirs in zip(turn.tables, longer.tables, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_layers_of_two_sizes(llama):
    cache = require_as_by_columns(
        llama, tokens(1, 60), tokens(1, 20, seed=1), total_tokens=[10, 18], cascades=[2, 4]
    )
    assert [layer.keys.shape[2] for layer in cache.layers] == [10, 18]


def test_values_of_another_width_than_keys():
    """A layer alone, which rotates nothing."""
    shape = CascadeShape(sink_tokens=1, cascades=3, window_tokens=4)
    options = {"scale": 0.3, "window": None, "extras": PLAIN}
    step = {"ema_factor": 0.9, "device": torch.device("cpu")}
    layer = CascadeLayer(shape=shape, head_reduction="max", shared_heads=False)
    layer.lazy_initialization(torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 1, 24))
    generator = torch.Generator().manual_seed(0)

    def given(q):
        sizes = (1, 4, q, 16), (1, 2, q, 16), (1, 2, q, 24)
        return [torch.randn(size, generator=generator) for size in sizes]

    def by_columns(layer, tensors):
        real = torch.ones(1, tensors[0].shape[2], dtype=torch.bool)
        made = CascadeStep.of(shape, layer.seen, layer.counts, real, **step)
        return layer.read(*tensors, step=made, rotate=lambda x, *_: x, **options)

    by_columns(layer, given(30))
    other, clock = copy.deepcopy(layer), RingClock(shape, layer.seen, torch.device("cpu"))
    layer.enter_ring(clock, Turn())
    for _ in range(20):
        tensors = given(1)
        ours = layer.read_token(*tensors, step=clock.step(None), ema_factor=0.9, **options)
        torch.testing.assert_close(ours, by_columns(other, tensors), **TOLERANCE)
    for name in NAMES:
        torch.testing.assert_close(getattr(layer, name), getattr(other, name), **TOLERANCE)


def test_single_tokens_between_strides(llama):
    """What is held goes from slots to columns and back, whoever looks at it."""
    found = []
    for slots in (True, False):
        with pytest.MonkeyPatch.context() as monkeypatch:
            if not slots:
                by_columns(monkeypatch)
            cache, logits = decoded(llama, tokens(1, 30), tokens(1, 5, seed=1))
            parts = [logits, read(llama, cache, tokens(1, 11, seed=2))]
            parts.append(read(llama, cache, tokens(1, 7, seed=3), stride=1))
            cache.layers[1].tokens  # noqa: B018
            assert all(layer.ring is None for layer in cache.layers)
            parts.append(read(llama, cache, tokens(1, 7, seed=4), stride=1))
            cache.batch_repeat_interleave(2)
            parts.append(read(llama, cache, tokens(2, 7, seed=5), stride=1))
            found.append((torch.cat([x[:1] for x in parts], dim=1), cache))
    torch.testing.assert_close(found[0][0], found[1][0], **TOLERANCE)
    require_same_held(found[0][1], found[1][1])


def test_a_copy_goes_its_own_way(llama):
    cache, _ = decoded(llama, tokens(1, 30), tokens(1, 5, seed=1))
    other, more = copy.deepcopy(cache), tokens(1, 9, seed=2)
    expected = read(llama, cache, more, stride=1)
    assert all(layer.ring is not None for layer in other.layers)
    assert torch.equal(read(llama, other, more, stride=1), expected)
    require_same_held(other, cache)


def test_files_hold_what_is_held(llama, tmp_path):
    cache, _ = decoded(llama, tokens(1, 30), tokens(1, 5, seed=1))
    loaded = CascadingCache.load(cache.save(tmp_path / "a.safetensors"), config=llama.config)
    more = tokens(1, 9, seed=2)
    torch.testing.assert_close(
        read(llama, loaded, more, stride=1), read(llama, cache, more, stride=1), **TOLERANCE
    )
    require_same_held(loaded, cache)


def test_sizes_are_told_without_looking(llama):
    cache, _ = decoded(llama, tokens(2, 30), tokens(2, 5, seed=1))
    assert cache.layers[0].stored().tolist() == [14, 14]
    assert cache.nbytes > 0 and cache.get_seq_length() == 35
    assert all(layer.ring is not None for layer in cache.layers)
    cache.reset()
    assert cache.nbytes == 0 and cache.get_seq_length() == 0


def test_read_under_inference_mode_and_then_outside(llama):
    ids, more = tokens(1, 30), tokens(1, 6, seed=1)
    with torch.inference_mode():
        cache, _ = decoded(llama, ids, more)
    read(llama, cache, more, stride=1)
    expected, _ = decoded(llama, ids, torch.cat([more, more], dim=1))
    require_same_held(cache, expected)


def test_autocast_of_single_tokens(llama):
    cache, _ = decoded(llama, tokens(1, 30), tokens(1, 5, seed=1))
    other, more = copy.deepcopy(cache), tokens(1, 4, seed=2)
    with torch.autocast("cpu", torch.bfloat16), pytest.MonkeyPatch.context() as monkeypatch:
        ours = read(llama, cache, more, stride=1)
        by_columns(monkeypatch)
        expected = read(llama, other, more, stride=1)
    torch.testing.assert_close(ours, expected, atol=0.1, rtol=0.02)


def test_another_dtype_than_is_held_is_read_by_columns():
    """As some models' keys under autocast have: what is held then takes the wider one."""
    exact = exact_model("llama")
    cache, _ = decoded(copy.deepcopy(exact).to(torch.bfloat16), tokens(1, 30), tokens(1, 5, seed=1))
    read(exact, cache, tokens(1, 1, seed=2))
    assert all(layer.ring is None and layer.keys.dtype == torch.float32 for layer in cache.layers)
    read(exact, cache, tokens(1, 1, seed=3))
    assert all(layer.ring is not None for layer in cache.layers)


def test_gradients_pass_by_columns(llama):
    cache, _ = decoded(llama, tokens(1, 30), tokens(1, 5, seed=1))
    embedded = llama.get_input_embeddings()(tokens(1, 1, seed=2)).requires_grad_(True)
    with reads_cascades(llama):
        llama(inputs_embeds=embedded, **cache_argument(cache)).logits.sum().backward()
    assert embedded.grad.abs().max() > 0 and cache.layers[0].ring is None


@pytest.mark.parametrize("full", [True, False], ids=["by slots", "by columns"])
def test_a_call_that_broke_off_is_refused(llama, full, tmp_path):
    """Going on would read what layers know of different tokens."""
    cache, _ = decoded(llama, tokens(1, 30 if full else 3), tokens(1, 5 if full else 1, seed=1))

    def stop(*_):
        raise KeyboardInterrupt

    hook = llama.model.layers[1].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        read(llama, cache, tokens(1, 1))
    hook.remove()
    for go_on in (
        lambda: read(llama, cache, tokens(1, 1)),
        lambda: cache.to_cartridge(llama),
        lambda: cache.save(tmp_path / "stream.safetensors"),
    ):
        with pytest.raises(RuntimeError, match="CascadingCache broke off.* reset"):
            go_on()
    if full:
        with pytest.raises(RuntimeError, match="some layers of this cascade have read a token"):
            cache.layers[0].keys  # noqa: B018
    cache.reset()
    read(llama, cache, tokens(1, 30))


def test_a_call_that_read_nothing_is_made_again(llama):
    """What is refused before a layer reads has changed nothing."""
    cache, _ = decoded(llama, tokens(1, 30), tokens(1, 5, seed=1))
    other = copy.deepcopy(cache)
    for wrong in (tokens(2, 1), tokens(1, 1) + 10**6):
        with pytest.raises((ValueError, IndexError)):
            read(llama, cache, wrong)
    more = tokens(1, 1, seed=2)
    torch.testing.assert_close(read(llama, cache, more), read(llama, other, more), atol=0, rtol=0)
    require_same_held(cache, other)


def test_sixteen_bits_are_as_near_as_by_columns():
    exact, rounded = exact_model("llama"), copy.deepcopy(exact_model("llama")).to(torch.bfloat16)
    prompt, more = tokens(1, 40), tokens(1, 20, seed=1)
    options = {"cascades": 1, "total_tokens": 14}  # nothing is kept by scores
    _, expected = decoded(exact, prompt, more, **options)
    _, ours = decoded(rounded, prompt, more, **options)
    with pytest.MonkeyPatch.context() as monkeypatch:
        by_columns(monkeypatch)
        _, theirs = decoded(rounded, prompt, more, **options)
    errors = [float((x.float() - expected).norm() / expected.norm()) for x in (ours, theirs)]
    assert errors[0] < 1.3 * errors[1] < 0.06
