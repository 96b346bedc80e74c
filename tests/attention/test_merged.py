"""Attention merged from a shared prefix and own keys equals softmax over both together, gradients too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_cartridges.attention import Reading
from lit_cartridges.attention.kernels import additive_mask
from lit_cartridges.attention.merged import MergedAttention
from lit_cartridges.attention.parts import PackedPart, PrefixPart, RowsPart

HEADS, KV_HEADS, DIM, SCALE = 4, 2, 8, 0.4
TOLERANCE = {torch.float32: {"atol": 2e-5, "rtol": 1e-4}, torch.bfloat16: {"atol": 5e-2, "rtol": 5e-2}}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CPU = torch.device("cpu")


def draw(rows, tokens, keys, prefix, dtype=torch.float32, device="cpu"):
    """query, key, value [B, ·, ·, D] and prefix key, value [1, K, P, D]."""
    generator = torch.Generator().manual_seed(rows * 1000 + tokens * 100 + keys * 10 + prefix)
    shapes = [
        (rows, HEADS, tokens, DIM),
        *[(rows, KV_HEADS, keys, DIM)] * 2,
        *[(1, KV_HEADS, prefix, DIM)] * 2,
    ]
    return [torch.randn(s, generator=generator).to(dtype).to(device).requires_grad_() for s in shapes]


def naive(query, key, value, prefix_key, prefix_value, visible):
    """One softmax over the concatenated keys in fp64; ``visible`` [B, T, P + M]."""
    query, key, value, prefix_key, prefix_value = (
        x.detach().double().requires_grad_() for x in (query, key, value, prefix_key, prefix_value)
    )
    keys, values = (
        torch.cat([p.expand(len(query), -1, -1, -1), x], 2).repeat_interleave(HEADS // KV_HEADS, 1)
        for p, x in ((prefix_key, key), (prefix_value, value))
    )
    scores = query @ keys.transpose(-1, -2) * SCALE
    scores = scores.masked_fill(~visible[:, None].to(scores.device), -torch.inf)
    return scores.softmax(-1) @ values, [query, key, value, prefix_key, prefix_value]


def check(tensors, own, prefix, visible, real=None, tolerance=None):
    """Outputs and all five gradients; ``real`` [B, T] leaves out padded queries."""
    dtype = tensors[0].dtype
    tolerance = tolerance or TOLERANCE[dtype]
    out = MergedAttention.apply(*tensors, SCALE, own, prefix)
    expected, leaves = naive(*tensors, visible)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(out)
    if real is not None:
        real = real[:, None, :, None].to(out.device)
        grad, out, expected = grad * real, out * real, expected * real
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, **tolerance)
    ours = torch.autograd.grad(out, tensors, grad)
    theirs = torch.autograd.grad(expected, leaves, grad.double())
    for mine, reference, like in zip(ours, theirs, tensors, strict=True):
        assert (mine.shape, mine.dtype) == (like.shape, dtype)
        torch.testing.assert_close(mine.double(), reference, **tolerance)


def causal(tokens, keys=None):
    keys = keys or tokens
    return torch.arange(keys - tokens, keys)[:, None] >= torch.arange(keys)


def packed_visible(lengths, prefix, window=None):
    """[1, T, P + T]: causal inside a sequence, whose tokens stand at positions P, P + 1, …"""
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    position = torch.cat([torch.arange(n) for n in lengths]) + prefix
    own = (sequence[:, None] == sequence) & (position[:, None] >= position)
    positions = torch.cat([torch.arange(prefix), position])
    seen = torch.cat([torch.ones(len(position), prefix, dtype=torch.bool), own], 1)
    if window is not None:
        seen &= position[:, None] - positions < window
    return seen[None]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("prefix", [1, 9])
def test_rows_share_a_prefix(dtype, prefix, device):
    tensors = draw(3, 6, 6, prefix, dtype, device)
    visible = torch.cat([torch.ones(6, prefix, dtype=torch.bool), causal(6)], 1).expand(3, -1, -1)
    check(tensors, RowsPart(causal=True), PrefixPart(), visible)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("lengths", [(5,), (1, 1, 1), (7, 1, 12, 3, 8, 2)], ids=str)
def test_packed_sequences_share_a_prefix_and_do_not_see_each_other(dtype, lengths, device):
    tensors = draw(1, sum(lengths), sum(lengths), 9, dtype, device)
    own = PackedPart.of_lengths(lengths, device=torch.device(device))
    check(tensors, own, PrefixPart(), packed_visible(lengths, 9))


def test_places_past_a_sequences_end_stay_silent_however_large_the_scores():
    """Their scores, of about 1000, would overflow `exp`, and infinity times a gradient of zero is no number."""
    lengths = (5, 8)
    query, *rest = draw(1, 13, 13, 3)
    tensors = [(query.detach() * 400).requires_grad_(), *rest]
    own, rounding = PackedPart.of_lengths(lengths, device=CPU), {"atol": 1e-2, "rtol": 1e-2}
    check(tensors, own, PrefixPart(), packed_visible(lengths, 3), tolerance=rounding)


@pytest.mark.parametrize("window", [1, 2, 3, 6, 30])
def test_windows_hide_far_tokens_of_the_prefix_and_of_the_sequence(window):
    lengths, prefix = (7, 1, 12, 3), 4
    tensors = draw(1, sum(lengths), sum(lengths), prefix)
    positions = torch.cat([torch.arange(n) for n in lengths])[None] + prefix
    reading = Reading(
        keys=[tensors[3][0]], values=[tensors[4][0]], position_ids=positions, lengths=lengths
    ).begin({})
    own = reading.own_part(tensors[0], tensors[1], None, window)
    check(
        tensors,
        own,
        reading.prefix_part(tensors[0], tensors[1], None, window),
        packed_visible(lengths, prefix, window),
    )


@pytest.mark.parametrize("window", [None, 5])
def test_left_padded_rows_see_the_prefix_and_their_real_keys(window):
    """Rows of 6 tokens behind a prefix of 4, of which 3 and 0 are padding: padding has no say in any gradient."""
    pads, tokens, prefix = (3, 0), 6, 4
    tensors = draw(2, tokens, tokens, prefix)
    real = torch.stack([torch.arange(tokens) >= pad for pad in pads])
    positions = (real.long().cumsum(1) - 1).clamp(min=0) + prefix
    reading = Reading(keys=[tensors[3][0]], values=[tensors[4][0]], position_ids=positions).begin({})
    own = reading.own_part(tensors[0], tensors[1], real, window)
    distance = (
        positions[:, :, None] - torch.cat([torch.arange(prefix).expand(2, -1), positions], 1)[:, None, :]
    )
    visible = torch.cat(
        [torch.ones(2, tokens, prefix, dtype=torch.bool), causal(tokens) & real[:, None, :]], 2
    )
    if window is not None:
        visible &= distance < window
    visible[..., 0] |= ~real  # the reference needs some key for padded queries; `real` leaves them out
    check(tensors, own, reading.prefix_part(tensors[0], tensors[1], real, window), visible, real)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("tokens", [1, 2])
def test_cached_keys_are_more_than_queries(tokens, window):
    """Decoding: the last ``tokens`` of 5 own keys are being read, at positions 4 + 5 - tokens and on."""
    keys, prefix = 5, 4
    tensors = draw(2, tokens, keys, prefix)
    positions = (torch.arange(keys - tokens, keys) + prefix).expand(2, -1)
    reading = Reading(keys=[tensors[3][0]], values=[tensors[4][0]], position_ids=positions).begin({})
    own = reading.own_part(tensors[0], tensors[1], None, window)
    visible = torch.cat([torch.ones(tokens, prefix, dtype=torch.bool), causal(tokens, keys)], 1)
    if window is not None:
        visible &= positions[0][:, None] - torch.arange(prefix + keys) < window
    check(tensors, own, reading.prefix_part(tensors[0], tensors[1], None, window), visible.expand(2, -1, -1))


def test_a_prefix_that_the_window_hides_altogether_gets_no_gradient():
    tensors = draw(1, 3, 3, 4)
    prefix = PrefixPart(
        additive_mask(torch.ones(1, 1, 3 * HEADS // KV_HEADS, 4, dtype=torch.bool), torch.float32)
    )
    out = MergedAttention.apply(*tensors, SCALE, RowsPart(causal=True), prefix)
    alone = MergedAttention.apply(*tensors[:3], None, None, SCALE, RowsPart(causal=True), None)
    torch.testing.assert_close(out, alone)
    grads = torch.autograd.grad(out.sum(), tensors)
    assert (grads[3] == 0).all()
    assert (grads[4] == 0).all()


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    prefix=st.integers(1, 12),
    window=st.none() | st.integers(1, 25),
)
def test_any_packing_equals_the_naive_softmax(lengths, prefix, window):
    tensors = draw(1, sum(lengths), sum(lengths), prefix)
    positions = torch.cat([torch.arange(n) for n in lengths])[None] + prefix
    reading = Reading(
        keys=[tensors[3][0]], values=[tensors[4][0]], position_ids=positions, lengths=tuple(lengths)
    ).begin({})
    own = reading.own_part(tensors[0], tensors[1], None, window)
    check(
        tensors,
        own,
        reading.prefix_part(tensors[0], tensors[1], None, window),
        packed_visible(lengths, prefix, window),
    )


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_buckets_hold_every_token_once_and_waste_less_than_half(lengths):
    part = PackedPart.of_lengths(lengths, device=CPU)
    tokens = torch.cat([bucket[bucket >= 0] for bucket in part.buckets])
    assert tokens.sort().values.tolist() == list(range(sum(lengths)))
    starts = torch.tensor([0, *lengths]).cumsum(0).tolist()
    rows = [row[row >= 0].tolist() for bucket in part.buckets for row in bucket]
    assert sorted(rows) == sorted(list(range(s, s + n)) for s, n in zip(starts, lengths, strict=False))
    assert all((bucket >= 0).float().mean() > 0.5 for bucket in part.buckets)
    assert len(part.buckets) <= 10  # 1, 2, 3–4, 5–8, … 257–512


def test_the_layout_is_made_once_for_all_layers():
    query, key, *_ = draw(1, 6, 6, 4)
    reading = Reading(keys=[key], values=[key], position_ids=torch.arange(6)[None] + 4, lengths=(2, 4)).begin(
        {}
    )
    assert reading.own_part(query, key, None, None) is reading.own_part(query, key, None, None)
    assert reading.own_part(query, key, None, 3) is not reading.own_part(query, key, None, None)
    assert reading.prefix_part(query, key, None, 3) is reading.prefix_part(query, key, None, 3)


@pytest.mark.parametrize("layout", ["packed", "padded", "cached"])
def test_positions_follow_the_prefix_unless_they_are_given(layout):
    """Windows are measured from positions, which `Reading` may be told or count by itself."""
    query, key, *_ = draw(1, 6, 6, 4)
    real, options, positions = None, {}, torch.arange(6)[None] + 4
    if layout == "packed":
        options, positions = {"lengths": (2, 4)}, torch.tensor([[4, 5, 4, 5, 6, 7]])
    elif layout == "padded":
        real, positions = torch.arange(6)[None] >= 2, torch.tensor([[4, 4, 4, 5, 6, 7]])
    else:
        query, positions = query[:, :, 4:], positions[:, 4:]
    told, counted = (
        Reading(keys=[key[0, :, :4]], values=[key[0, :, :4]], position_ids=given, **options).begin({})
        for given in (positions, None)
    )
    theirs, ours = (one.prefix_part(query, key, real, 3).mask for one in (told, counted))
    assert theirs is not None
    assert torch.equal(ours, theirs)
