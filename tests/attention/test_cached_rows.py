"""New tokens behind cached keys of their own rows: one softmax over all of them, gradients too, and no mask of all keys."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.attention import Reading
from lit_cartridges.attention.cached_rows import BandPart, CachedPart, rows_part
from lit_cartridges.attention.parts import PrefixPart
from lit_cartridges.attention.plain import attend_backward_plain, attend_plain
from lit_cartridges.attention.reached_prefix import ReachedPrefix
from tests.attention.test_merged import HEADS, KV_HEADS, SCALE, TOLERANCE, causal, check, draw

PREFIX = 2
PADS = torch.tensor([[40], [0]])


def visible_of(tokens, keys, window=None):
    """[T, P + M]; windows are those of the own keys."""
    own = causal(tokens, keys)
    if window is not None:
        distance = torch.arange(keys - tokens, keys)[:, None] - torch.arange(keys)
        own &= distance < window
    return torch.cat([torch.ones(tokens, PREFIX, dtype=torch.bool), own], 1)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(("tokens", "keys"), [(1, 90), (7, 8), (30, 90), (280, 600), (560, 560)])
@pytest.mark.parametrize("window", [None, 1, 24, 300, 1000])
def test_cached_and_new_keys(tokens, keys, window, dtype):
    """Of 280 and 560 tokens windows below 256 are read in blocks of 256."""
    tensors = draw(2, tokens, keys, PREFIX, dtype)
    own = rows_part(tensors[0], tensors[1], None, window)
    check(tensors, own, PrefixPart(), visible_of(tokens, keys, window).expand(2, -1, -1))


@pytest.mark.parametrize(("tokens", "keys"), [(1, 90), (30, 90), (60, 90), (280, 600)])
@pytest.mark.parametrize("window", [None, 24])
def test_padding_in_front(tokens, keys, window):
    """The first row's padding ends among the cached keys, or among the new ones (60 of 90)."""
    tensors = draw(2, tokens, keys, PREFIX)
    real = torch.arange(keys) >= PADS
    own = rows_part(tensors[0], tensors[1], real, window)
    visible = visible_of(tokens, keys, window).expand(2, -1, -1).clone()
    visible[..., PREFIX:] &= real[:, None]
    check(tensors, own, PrefixPart(), visible, real[:, keys - tokens :])


def test_parts_are_chosen_by_what_a_layer_sees():
    query, key = torch.zeros(2, HEADS, 30, 8), torch.zeros(2, KV_HEADS, 90, 8)
    assert rows_part(query, key, None, None) == rows_part(query, key, None, 90)
    assert isinstance(rows_part(query, key, None, 90), CachedPart)
    assert isinstance(rows_part(query, key, None, 89), BandPart)
    padded = rows_part(query, key, torch.ones(2, 90), None)
    assert padded.mask.shape == (2, 1, 1, 60) and padded.new.mask.shape == (2, 1, 30, 30)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_a_long_prefix_is_read_where_a_window_reaches_it(softcap):
    """Tokens at 50 to 53 with a window of 7 see the prefix from 44 on."""
    query, key, value, prefix_key, prefix_value = draw(1, 4, 4, 50)
    positions = torch.arange(50, 54)[None]
    reading = Reading(keys=[prefix_key[0]], values=[prefix_value[0]], position_ids=positions)
    part = reading.begin({}).prefix_part(query, key, None, 7)
    assert isinstance(part, ReachedPrefix) and part.first == 44 and part.mask.shape[-1] == 6
    bias = torch.linspace(-1, 1, KV_HEADS * 50).view(KV_HEADS, 50)
    hidden = positions.T - torch.arange(50) >= 7
    mask = torch.zeros(4, 50).masked_fill(hidden, -1e30)[None, None]
    out, lse = part.attend(query, prefix_key, prefix_value, SCALE, softcap, bias)
    options = {"mask": mask, "softcap": softcap, "bias": bias}
    # The last token sees none: its output is that of an empty part, which weighs nothing after a merge.
    seen = ~hidden.all(1)
    expected, expected_lse = attend_plain(query, prefix_key, prefix_value, SCALE, **options)
    torch.testing.assert_close(out[:, :, seen], expected[:, :, seen], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(lse[:, :, seen], expected_lse[:, :, seen], atol=1e-5, rtol=1e-4)
    grad = torch.randn(query.shape, generator=torch.Generator().manual_seed(3))
    ours = part.gradients(grad, query, prefix_key, prefix_value, out, lse, SCALE, softcap, bias)
    theirs = attend_backward_plain(grad, query, prefix_key, prefix_value, out, lse, SCALE, **options)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
    assert (ours[1][:, :, :44] == 0).all() and (ours[1][:, :, 44:] != 0).any()


def test_few_queries_at_a_time_give_what_all_at_once_give(monkeypatch):
    """As behind very many keys, whose scores would not fit."""
    query, key, value, *_ = draw(2, 11, 11, 1)
    whole = attend_plain(query, key, value, SCALE, causal=True)
    backward = attend_backward_plain(whole[0], query, key, value, *whole, SCALE, causal=True)
    monkeypatch.setattr("lit_cartridges.attention.plain._MOST_SCORES", 3 * 2 * HEADS * 11)
    parts = attend_plain(query, key, value, SCALE, causal=True)
    in_parts = attend_backward_plain(parts[0], query, key, value, *parts, SCALE, causal=True)
    for mine, other in zip((*whole, *backward), (*parts, *in_parts), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
