"""Soft-capped scores and learned sinks: merged attention against a softmax over all columns, and models against themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.autograd import gradcheck
from transformers import DynamicCache

from lit_cartridges import Cartridge
from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.merged import MergedAttention
from lit_cartridges.attention.parts import PackedPart, PrefixPart, RowsPart, SlicedPart
from lit_cartridges.attention.prefill import prefill
from tests.tiny_models import VOCAB, tiny_model

HEADS, KV_HEADS, DIM, WIDE, PREFIX, SCALE = 4, 2, 8, 12, 5, 0.4
TOLERANCE = {torch.float32: {"atol": 2e-5, "rtol": 1e-4}, torch.bfloat16: {"atol": 6e-2, "rtol": 6e-2}}
CPU = torch.device("cpu")
EXTRAS = {"capped": (1.5, False), "sinks": (None, True), "both": (1.5, True)}


def draw(rows, tokens, dtype, value_dim=DIM):
    """query, key, value, prefix key and value, biases [K, P] and sinks [H], the last two in fp32."""
    generator = torch.Generator().manual_seed(rows * 100 + tokens)
    shapes = [(rows, HEADS, tokens, DIM), (rows, KV_HEADS, tokens, DIM), (rows, KV_HEADS, tokens, value_dim)]
    shapes += [(1, KV_HEADS, PREFIX, DIM), (1, KV_HEADS, PREFIX, value_dim)]
    tensors = [torch.randn(s, generator=generator).to(dtype) for s in shapes]
    tensors += [torch.randn(KV_HEADS, PREFIX, generator=generator), torch.randn(HEADS, generator=generator)]
    return [x.requires_grad_() for x in tensors]


def naive(tensors, visible, softcap, biased, sunk):
    """One query at a time in fp64: cap, bias, mask, one more column of value zero; ``visible`` [B, T, P + M]."""
    leaves = [x.detach().double().requires_grad_() for x in tensors]
    query, key, value, prefix_key, prefix_value, biases, sinks = leaves
    outs = []
    for row in range(query.shape[0]):
        for head in range(HEADS):
            kv = head * KV_HEADS // HEADS
            keys = torch.cat([prefix_key[0, kv], key[row, kv]])
            values = torch.cat([prefix_value[0, kv], value[row, kv]])
            for place in range(query.shape[2]):
                scores = keys @ query[row, head, place] * SCALE
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                if biased:
                    scores = scores + torch.cat([biases[kv], torch.zeros(key.shape[2]).double()])
                scores = scores.masked_fill(~visible[row, place], -torch.inf)
                if sunk:
                    scores = torch.cat([scores, sinks[head : head + 1]])
                outs.append(scores.softmax(0)[: len(values)] @ values)
    return torch.stack(outs).view(*query.shape[:3], -1), leaves


def check(tensors, own, prefix, visible, softcap, sunk, *, biased=False, real=None):
    dtype = tensors[0].dtype
    biases, sinks = (tensors[5] if biased else None), (tensors[6] if sunk else None)
    out = MergedAttention.apply(*tensors[:5], SCALE, own, prefix, biases, softcap, sinks)
    expected, leaves = naive(tensors, visible, softcap, biased, sunk)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    if real is not None:
        grad, out, expected = (x * real[:, None, :, None] for x in (grad, out, expected))
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, **TOLERANCE[dtype])
    wanted = [i for i in range(7) if (i != 5 or biased) and (i != 6 or sunk)]
    ours = torch.autograd.grad(out, [tensors[i] for i in wanted], grad)
    theirs = torch.autograd.grad(expected, [leaves[i] for i in wanted], grad.double())
    for index, mine, reference in zip(wanted, ours, theirs, strict=True):
        assert (mine.shape, mine.dtype) == (tensors[index].shape, tensors[index].dtype)
        assert mine.abs().max() > 1e-3
        torch.testing.assert_close(mine.double(), reference, **TOLERANCE[dtype])


def visible_of(lengths, window=None):
    """[1, T, P + T]: causal inside a sequence, whose tokens stand at positions P, P + 1, …"""
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    position = torch.cat([torch.arange(n) for n in lengths]) + PREFIX
    own = (sequence[:, None] == sequence) & (position[:, None] >= position)
    seen = torch.cat([torch.ones(len(position), PREFIX, dtype=torch.bool), own], 1)
    distance = position[:, None] - torch.cat([torch.arange(PREFIX), position])
    return (seen & (distance < (window or 99)))[None], position[None]


@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("extras", list(EXTRAS))
@pytest.mark.parametrize("window", [None, 4, 7])
def test_packed_rows(extras, dtype, window, biased):
    """Windows of 4 and 7 behind 5 prefix tokens hide all, or some, of them from later tokens."""
    lengths = (7, 1, 4)
    tensors, (visible, positions) = draw(1, sum(lengths), dtype), visible_of(lengths, window)
    reading = Reading(keys=[tensors[3][0]], values=[tensors[4][0]], position_ids=positions, lengths=lengths)
    prefix = reading.begin({}).prefix_part(tensors[0], tensors[1], None, window)
    for own in (SlicedPart(lengths, window), PackedPart.of_lengths(lengths, window=window, device=CPU)):
        check(tensors, own, prefix, visible, *EXTRAS[extras], biased=biased)


@pytest.mark.parametrize("extras", list(EXTRAS))
@pytest.mark.parametrize("window", [None, 4])
def test_left_padded_rows(extras, window):
    pads, tokens = (3, 0), 6
    tensors = draw(2, tokens, torch.float32)
    real = torch.stack([torch.arange(tokens) >= pad for pad in pads])
    positions = (real.long().cumsum(1) - 1).clamp(min=0) + PREFIX
    reading = Reading(keys=[tensors[3][0]], values=[tensors[4][0]], position_ids=positions)
    call = reading.begin({})
    own = call.own_part(tensors[0], tensors[1], real, window)
    key_positions = torch.cat([torch.arange(PREFIX).expand(2, -1), positions], 1)
    visible = torch.cat(
        [
            torch.ones(2, tokens, PREFIX, dtype=torch.bool),
            torch.ones(tokens, tokens).tril().bool() & real[:, None],
        ],
        2,
    )
    visible &= positions[:, :, None] - key_positions[:, None] < (window or 99)
    visible[..., 0] |= ~real  # the reference needs some key for padded queries; `real` leaves them out
    prefix = call.prefix_part(tensors[0], tensors[1], real, window)
    check(tensors, own, prefix, visible, *EXTRAS[extras], real=real)


@pytest.mark.parametrize("extras", list(EXTRAS))
def test_values_wider_than_keys(extras):
    """As latent attention has them."""
    tensors, (visible, _) = draw(1, 6, torch.float32, value_dim=WIDE), visible_of((6,))
    for biased in (False, True):
        check(tensors, RowsPart(causal=True), PrefixPart(), visible, *EXTRAS[extras], biased=biased)


@pytest.mark.parametrize(
    ("softcap", "sunk", "biased"),
    # Biases without a cap ride on fp32 coordinates of the keys, which test_key_biases checks.
    [
        (None, False, False),
        *((*extras, False) for extras in EXTRAS.values()),
        (1.5, False, True),
        (1.5, True, True),
    ],
)
def test_gradients_of_fp64_are_those_of_finite_differences(softcap, sunk, biased):
    tensors = [x.detach().double().requires_grad_() for x in draw(1, 4, torch.float32)]
    own, prefix = SlicedPart((1, 3)), PrefixPart()

    def merged(*leaves):
        biases, sinks = (leaves[5] if biased else None), (leaves[6] if sunk else None)
        return MergedAttention.apply(*leaves[:5], SCALE, own, prefix, biases, softcap, sinks)

    assert merged(*tensors).dtype == torch.float64
    assert gradcheck(merged, tensors, atol=1e-7)


def test_without_a_prefix_a_sink_takes_its_share_and_a_high_one_takes_all():
    query, key, value, *_ = draw(1, 4, torch.float32)
    alone = MergedAttention.apply(query, key, value, None, None, SCALE, RowsPart(causal=True), None)
    nothing, all_of_it, half = (
        MergedAttention.apply(
            *(query, key, value, None, None, SCALE, RowsPart(causal=True), None, None, None, sinks)
        )
        for sinks in (
            torch.full((HEADS,), -1e4),
            torch.full((HEADS,), 1e4),
            (query @ key.repeat_interleave(2, 1).mT * SCALE)[0, :, 0, 0],
        )
    )
    torch.testing.assert_close(nothing, alone)
    assert (all_of_it == 0).all()
    torch.testing.assert_close(half[:, :, 0], alone[:, :, 0] / 2)


def test_a_frozen_sink_costs_no_gradient():
    *tensors, _, sinks = draw(1, 4, torch.float32)
    sinks = sinks.detach()
    out = MergedAttention.apply(*tensors, SCALE, RowsPart(causal=True), PrefixPart(), None, None, sinks)
    out.sum().backward()
    assert sinks.grad is None


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_the_models_extras_bend_what_they_say(name, monkeypatch):
    """Else the tests of all architectures would say nothing about them."""
    model, ids, apply = tiny_model(name), torch.arange(3, 40)[None], MergedAttention.apply

    def logits():
        with reads_prefixes(model), torch.no_grad():
            return model(ids, use_cache=False, reading=Reading(), position_ids=ids - 3).logits

    bent = logits()
    monkeypatch.setattr(MergedAttention, "apply", lambda *given: apply(*given[:9]))
    assert (bent - logits()).norm() > 0.1 * bent.norm()


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_in_bf16_logits_and_gradients_are_as_exact_as_the_models_own(name):
    """Against fp32 and the model's eager attention behind an expanded cache; test_attention compares in fp32."""
    model = tiny_model(name)
    half = copy.deepcopy(model).to(torch.bfloat16)
    cartridge = Cartridge(*prefill(model, torch.arange(3, 22)), num_frozen_tokens=2)
    lengths = (7, 1, 30)
    ids = [torch.randint(3, VOCAB, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    probe = torch.randn(sum(lengths), VOCAB, generator=torch.Generator().manual_seed(9))

    def outcome(logits):
        cartridge.zero_grad()
        (logits.float() * probe).sum().backward()
        return logits.float().detach(), torch.cat([p.grad.flatten() for p in cartridge.parameters()])

    def eager(model):
        logits = []
        for sequence in ids:
            cache = DynamicCache()
            for layer, (key, value) in enumerate(zip(*cartridge.tensors(dtype=model.dtype), strict=True)):
                cache.update(key[None], value[None], layer)
            logits.append(model(sequence[None], **cache_argument(cache)).logits[0])
        return outcome(torch.cat(logits))

    keys, values = cartridge.tensors(dtype=torch.bfloat16)
    positions = torch.cat([torch.arange(n) for n in lengths])[None] + cartridge.num_tokens
    reading = Reading(keys=keys, values=values, position_ids=positions, lengths=lengths)
    with reads_prefixes(half):
        packed = half(torch.cat(ids)[None], position_ids=positions, use_cache=False, reading=reading)
    for ours, theirs, exact in zip(outcome(packed.logits[0]), eager(half), eager(model), strict=True):
        assert (ours - exact).norm() < 1.2 * (theirs - exact).norm() < 0.2 * exact.norm()
