"""A bias per key of the prefix: the naive softmax with it, its gradient, and every way in which a cartridge is read."""

from __future__ import annotations

import copy

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention.key_biases import widened
from lit_cartridges.attention.merged import MergedAttention
from lit_cartridges.attention.parts import PrefixPart, RowsPart, SlicedPart
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.evals.systems import of_cartridge
from lit_cartridges.generation import generate
from lit_cartridges.losses import LanguageHead, NextToken, Targets, chunked_loss
from tests.tiny_models import VOCAB, tiny_model

HEADS, KV_HEADS, DIM, PREFIX = 4, 2, 8, 5
TOLERANCE = {torch.float32: {"atol": 2e-5, "rtol": 1e-4}, torch.bfloat16: {"atol": 6e-2, "rtol": 6e-2}}
GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}


def draw(rows, tokens, dtype):
    """query, key, value [B, ·, T, D], prefix key and value [1, K, P, D], and biases [K, P] in fp32."""
    generator = torch.Generator().manual_seed(rows * 100 + tokens)
    shapes = [
        (rows, HEADS, tokens, DIM),
        *[(rows, KV_HEADS, tokens, DIM)] * 2,
        *[(1, KV_HEADS, PREFIX, DIM)] * 2,
    ]
    tensors = [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]
    return [*tensors, (torch.randn(KV_HEADS, PREFIX, generator=generator) * 2).requires_grad_()]


def naive(tensors, visible, scale):
    """One softmax in fp64 over prefix and own keys, with the bias added to the prefix's scores; visible [T, P + T]."""
    leaves = [x.detach().double().requires_grad_() for x in tensors]
    query, key, value, prefix_key, prefix_value, biases = leaves
    keys, values = (
        torch.cat([p.expand(len(query), -1, -1, -1), x], 2).repeat_interleave(HEADS // KV_HEADS, 1)
        for p, x in ((prefix_key, key), (prefix_value, value))
    )
    scores = query @ keys.transpose(-1, -2) * scale
    own = torch.zeros(KV_HEADS, key.shape[2], dtype=torch.float64)
    scores = scores + torch.cat([biases, own], 1).repeat_interleave(HEADS // KV_HEADS, 0)[:, None]
    return scores.masked_fill(~visible, -torch.inf).softmax(-1) @ values, leaves


@pytest.mark.parametrize("scale", [0.4, 1.0, 128**-0.5])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("window", [None, 7])
def test_outputs_and_the_gradients_of_key_value_and_bias_are_the_naive_ones(dtype, scale, window):
    """Windows of 7 behind 5 prefix tokens: the rows' tokens 2 to 5 see 4, 3, 2 and 1 of them, and the bias of those."""
    tokens = 6
    tensors = draw(2, tokens, dtype)
    positions = torch.arange(PREFIX + tokens)
    distance = positions[PREFIX:, None] - positions
    visible = (distance >= 0) & (distance < (window or 99))
    reading = Reading(
        keys=[tensors[3][0]], values=[tensors[4][0]], position_ids=positions[None, PREFIX:].expand(2, -1)
    ).begin({})
    own = reading.own_part(tensors[0], tensors[1], None, window)
    prefix = reading.prefix_part(tensors[0], tensors[1], None, window)
    out = MergedAttention.apply(*tensors[:5], scale, own, prefix, tensors[5])
    expected, leaves = naive(tensors, visible, scale)
    torch.testing.assert_close(out.double(), expected, **TOLERANCE[dtype])
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    ours = torch.autograd.grad(out, tensors, grad)
    theirs = torch.autograd.grad(expected, leaves, grad.double())
    for mine, reference, like in zip(ours, theirs, tensors, strict=True):
        assert (mine.shape, mine.dtype) == (like.shape, like.dtype)
        torch.testing.assert_close(mine.double(), reference, **TOLERANCE[dtype])
    assert ours[5].abs().min() > 1e-4


def test_biases_of_zero_change_nothing_and_a_very_low_one_hides_its_key():
    *tensors, _ = draw(1, 6, torch.float32)
    own, prefix = SlicedPart((6,)), PrefixPart()
    plain = MergedAttention.apply(*tensors, 0.4, own, prefix)
    zeros = MergedAttention.apply(*tensors, 0.4, own, prefix, torch.zeros(KV_HEADS, PREFIX))
    torch.testing.assert_close(zeros, plain)
    low = torch.zeros(KV_HEADS, PREFIX)
    low[:, 2:] = -1e4
    short = [x[:, :, :2] if i > 2 else x for i, x in enumerate(tensors)]
    hidden = MergedAttention.apply(*tensors, 0.4, own, prefix, low)
    torch.testing.assert_close(hidden, MergedAttention.apply(*short, 0.4, own, prefix))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_bias_of_minus_infinity_hides_its_key(dtype):
    *tensors, _ = draw(1, 6, dtype)
    biases = torch.zeros(KV_HEADS, PREFIX)
    biases[:, 2:] = -torch.inf
    short = [x[:, :, :2] if i > 2 else x for i, x in enumerate(tensors)]
    own, prefix = SlicedPart((6,)), PrefixPart()
    for softcap in (None, 2.0):
        hidden = MergedAttention.apply(*tensors, 0.4, own, prefix, biases, softcap)
        gone = MergedAttention.apply(*short, 0.4, own, prefix, None, softcap)
        torch.testing.assert_close(hidden, gone, atol=1e-2, rtol=1e-2)


def test_16_bit_keys_carry_biases_to_16_bits():
    query, key, value = (x.detach() * 0 for x in draw(1, 3, torch.bfloat16)[:3])
    biases = torch.tensor([[-5.3, 7.77, 0.001], [13.37, -0.2, 1.0]])
    wide_query, wide_key, _ = widened(query, key, value, biases, 128**-0.5)
    scores = (wide_query[0, ::2].double() @ wide_key[0].double().transpose(-1, -2)) * 128**-0.5
    torch.testing.assert_close(scores[:, 0], biases.double(), atol=0, rtol=2.0**-16)


def test_no_biases_no_work(monkeypatch):
    *tensors, _ = draw(1, 4, torch.float32)
    monkeypatch.setattr("lit_cartridges.attention.merged.widened", None)
    out = MergedAttention.apply(*tensors, 0.4, RowsPart(causal=True), PrefixPart())
    out.sum().backward()


def with_biases(model, num_tokens=12, num_frozen_tokens=2, seed=0):
    """A prefill with biases drawn for each key."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = prefill(model, torch.arange(3, 3 + num_tokens))
    biases = [torch.randn(x.shape[:2], generator=generator) for x in keys]
    return Cartridge(keys, values, biases, num_frozen_tokens=num_frozen_tokens)


def with_repeated_keys(model):
    """The same prefill twice: once with a bias of log 3 on every key but the first, once with these keys there thrice.

    Softmax weighs a key three times as much either way, so the two cannot be told apart, whatever reads them. Keys
    behind a sliding window's edge would differ, so the models here have none.
    """
    keys, values = prefill(model, torch.arange(3, 8))
    biases = [torch.full(x.shape[:2], 3.0).log() for x in keys]
    for bias in biases:
        bias[:, 0] = 0
    thrice = [[torch.cat([x[:, :1], *[x[:, 1:]] * 3], 1) for x in side] for side in (keys, values)]
    return Cartridge(keys, values, biases), Cartridge(*thrice)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt_neox"])
def test_a_bias_of_log_3_is_a_key_that_is_there_three_times(name):
    model, ids = tiny_model(name), torch.arange(20, 29)[None]
    biased, repeated = with_repeated_keys(model)
    logits, positions = [], torch.arange(9)[None] + 40
    for cartridge in (biased, repeated):
        keys, values = cartridge.tensors()
        reading = Reading(
            keys=keys, values=values, biases=cartridge.biases(), position_ids=positions, lengths=(9,)
        )
        with reads_prefixes(model), torch.no_grad():
            logits.append(model(ids, position_ids=positions, use_cache=False, reading=reading).logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_generation_and_evaluation_read_the_biases(llama):
    """Against a plain loop over the forward call that the test above has checked."""
    cartridge, prompt = with_biases(llama), torch.arange(30, 35)
    (keys, values), text = cartridge.tensors(), prompt
    for _ in range(GREEDY["max_new_tokens"]):
        positions = torch.arange(len(text))[None] + cartridge.num_tokens
        reading = Reading(keys=keys, values=values, biases=cartridge.biases(), position_ids=positions)
        with reads_prefixes(llama), torch.no_grad():
            logits = llama(text[None], position_ids=positions, use_cache=False, reading=reading).logits
        text = torch.cat([text, logits[0, -1:].argmax(-1)])
    assert generate(llama, cartridge, prompt[None], **GREEDY)[0].tolist() == text.tolist()
    unbiased = generate(llama, Cartridge(keys, values), prompt[None], **GREEDY)[0].tolist()
    assert unbiased != text.tolist(), "the biases must matter for this test to say anything"
    system = of_cartridge("x", cartridge, llama)
    assert all(torch.equal(a, b) for a, b in zip(system.biases, cartridge.biases(), strict=True))
    assert system.kv_bytes == cartridge.nbytes


def test_training_moves_the_biases_and_no_frozen_one():
    model = copy.deepcopy(tiny_model("llama"))
    cartridge = with_biases(model, num_frozen_tokens=3)
    before = [x.detach().clone() for x in cartridge.biases()]
    optimizer = torch.optim.Adam(cartridge.parameters(), lr=0.05)
    ids = torch.randint(3, VOCAB, (1, 9), generator=torch.Generator().manual_seed(2))
    positions = torch.arange(9)[None] + cartridge.num_tokens
    losses = []
    for _ in range(5):
        keys, values = cartridge.tensors()
        reading = Reading(
            keys=keys, values=values, biases=cartridge.biases(), position_ids=positions, lengths=(9,)
        )
        with reads_prefixes(model):
            hidden = model.base_model(ids, position_ids=positions, use_cache=False, reading=reading)[0]
        targets = Targets(token_ids=ids[0, 1:])
        loss, _, _ = chunked_loss(hidden[0, :-1], targets, NextToken(), LanguageHead(model))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for old, new in zip(before, cartridge.biases(), strict=True):
        assert torch.equal(old[:, :3], new[:, :3])
        assert (old[:, 3:] != new[:, 3:]).all()
    assert {p.dtype for p in cartridge.parameters()} == {torch.float32}


def test_composition_gives_zeros_to_the_parts_without_biases(llama):
    one, two = with_biases(llama), Cartridge(*prefill(llama, [5, 6, 7]))
    for parts in ([one, two], [two, one]):
        both = Cartridge.compose(parts)
        cuts = [0, parts[1].num_frozen_tokens]
        for layer, bias in enumerate(both.biases()):
            expected = [
                (part.biases() or [torch.zeros(2, part.num_tokens)] * 2)[layer][:, cut:]
                for part, cut in zip(parts, cuts, strict=True)
            ]
            assert torch.equal(bias, torch.cat(expected, 1))
    assert Cartridge.compose([two, two]).biases() is None


def test_nbytes_counts_the_biases_and_a_cartridge_without_them_holds_none(llama):
    biased = with_biases(llama)
    plain = Cartridge(*biased.tensors(), num_frozen_tokens=2)
    assert biased.nbytes == plain.nbytes + 2 * 2 * 12 * 4
    assert {name for name in plain.state_dict() if "biases" in name} == set()


def test_a_transformers_cache_refuses_biases_and_names_the_ways_out(llama):
    with pytest.raises(ValueError, match=r"cannot carry one; .*generation.generate, .*bias=false"):
        with_biases(llama).as_cache()


@pytest.mark.parametrize("shape", [(2, 11), (1, 12), (2, 12, 1)])
def test_biases_of_another_shape_are_refused(llama, shape):
    keys, values = prefill(llama, torch.arange(3, 15))
    with pytest.raises(ValueError, match=r"biases have shapes .*need \[\(2, 12\), \(2, 12\)\]"):
        Cartridge(keys, values, [torch.zeros(shape)] * 2)
    with pytest.raises(ValueError, match="biases have shapes"):
        Cartridge(keys, values, [torch.zeros(2, 12)])
