"""The calls that CUDA's flash attention gets from us, pinned on machines without a CUDA device (see cuda_flash)."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention import kernels as attention_kernels
from lit_cartridges.attention.kernels import Packing, flash_backward, flash_forward, flash_takes, has_flash
from lit_cartridges.attention.merged import MergedAttention
from lit_cartridges.attention.parts import PackedPart, PrefixPart, RowsPart
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.attention.readers import LayerCall
from lit_cartridges.attention.varlen import cum_seq_of
from lit_cartridges.module.recomputing import recomputes_layers
from tests.attention.cuda_flash import BACKWARD, FORWARD, CudaFlash
from tests.attention.test_merged import CPU, causal, check, draw, packed_visible
from tests.tiny_models import VOCAB, tiny_model

HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture
def flash(monkeypatch):
    """The CPU in the part of a CUDA device: what a GPU would be given goes through `CudaFlash`."""
    monkeypatch.setattr(attention_kernels, "has_flash", lambda device: True)
    monkeypatch.setattr(attention_kernels, "_fused_on_cpu", lambda *tensors: False)
    with CudaFlash() as mode:
        yield mode


def test_the_operators_take_the_arguments_that_they_are_given():
    """Positions and names that we rely on; behind those, later versions of torch may have more."""
    tensors = ["query", "key", "value"]
    common = ["cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal"]
    options = ["scale", "window_size_left", "window_size_right"]
    forward, backward = (x._schema.arguments for x in (FORWARD, BACKWARD))
    assert [x.name for x in forward][:13] == [*tensors, *common, "return_debug_mask", *options]
    assert [x.name for x in backward][:17] == [
        *("grad_out", *tensors, "out", "logsumexp", *common, "rng_state", "unused"),
        *options,
    ]
    assert (
        [x.name for x in forward if x.kwarg_only][:3] == [x.name for x in backward if x.kwarg_only] == options
    )
    assert {str(x.type) for x in (*forward, *backward) if x.name in options[1:]} == {"Optional[int]"}
    assert [x.name for x in FORWARD._schema.returns[:2]] == ["output", "softmax_logsumexp"]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("packed", "heads", "kv_heads", "tokens", "keys"),
    [
        (False, 4, 4, 6, 6),
        (False, 4, 2, 6, 6),
        (False, 8, 1, 1, 9),  # behind a cache, which packed rows have none of
        (True, 4, 4, 6, 6),
        (True, 4, 2, 6, 6),
    ],
)
def test_on_the_meta_device_they_run_with_what_we_hand_them(dtype, packed, heads, kv_heads, tokens, keys):
    """As a model makes them: query and key are views [batch, heads, tokens, width] of [batch, tokens, heads, width]."""
    rows, causal = 1 if packed else 2, tokens == keys
    query, key, value, grad = (
        torch.empty(rows, n, h, 16, dtype=dtype, device="meta").transpose(1, 2)
        for n, h in ((tokens, heads), (keys, kv_heads), (keys, kv_heads), (tokens, heads))
    )
    ends = cum_seq_of((2, 4)).to("meta")
    options = {"packing": Packing(ends, ends, 4, 4), "window": 3} if packed else {}
    with CudaFlash() as mode:
        out, lse = flash_forward(query, key, value, 0.3, causal, **options)
        grads = flash_backward(grad, query, key, value, out, lse, 0.3, causal, **options)
    assert (out.shape, out.dtype, out.stride()[1:]) == (query.shape, dtype, query.stride()[1:])
    assert (lse.shape, lse.dtype, lse.is_contiguous()) == ((rows, heads, tokens), torch.float32, True)
    assert [(x.shape, x.dtype) for x in grads] == [(x.shape, dtype) for x in (query, key, value)]
    for call in (*mode.of(FORWARD), *mode.of(BACKWARD)):
        assert call["cum_seq_q"] is call["cum_seq_k"] is (ends if packed else None)
        assert (call["max_q"], call["max_k"]) == ((4, 4) if packed else (tokens, keys))
        assert (call["is_causal"], call["scale"]) == (causal, 0.3)
        assert call["window_size_left"] == (2 if packed else None)
        assert call["key"].shape[-2] == call["value"].shape[-2] == kv_heads, "no head is repeated"
        assert call["query"].data_ptr() == query.data_ptr()
    assert (len(mode.of(FORWARD)), len(mode.of(BACKWARD))) == (1, 1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_sequences_read_keys_from_anywhere_and_as_many_as_are_said(device):
    """What a device counts: in any order, twice, none, and queries that read none."""
    queries, begin, used = [0, 2, 3, 3, 5], [7, 0, 4, 7, 0], [3, 4, 0, 0]
    query, key, value = (torch.randn(1, 2, n, 16).bfloat16().to(device) for n in (5, 10, 10))
    ends = (torch.tensor(x, dtype=torch.int32, device=device) for x in (queries, begin))
    with CudaFlash() as mode:
        out, lse = flash_forward(
            *(query, key, value, 0.3, False),
            packing=Packing(*ends, 5, 10),
            used=torch.tensor(used, dtype=torch.int32, device=device),
        )
    assert (out.shape, lse.shape) == (query.shape, (1, 2, 5)) and mode.of(FORWARD)[0]["max_k"] == 10
    if device == "meta":
        return
    for first, last, start, count in zip(queries, queries[1:], begin, used, strict=False):
        there = slice(start, start + count)
        scores = query[0, :, first:last].double() @ key[0, :, there].double().transpose(1, 2) * 0.3
        expected = scores.softmax(-1) @ value[0, :, there].double()
        torch.testing.assert_close(out[0, :, first:last].double(), expected, atol=1e-2, rtol=0)
        if count:
            torch.testing.assert_close(
                lse[0, :, first:last].double(), scores.logsumexp(-1), atol=1e-5, rtol=0
            )
        else:
            assert bool((lse[0, :, first:last] == torch.inf).all())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_rows_behind_a_prefix_train_by_them(flash, dtype):
    tensors = draw(3, 6, 6, 9, dtype)
    visible = torch.cat([torch.ones(6, 9, dtype=torch.bool), causal(6)], 1).expand(3, -1, -1)
    rounding = {"atol": 5e-2, "rtol": 5e-2}
    check(tensors, RowsPart(causal=True), PrefixPart(), visible, tolerance=rounding)
    assert (len(flash.of(FORWARD)), len(flash.of(BACKWARD))) == (2, 2)


@pytest.mark.parametrize("lengths", [(5,), (7, 1, 12, 3, 8, 2)], ids=str)
def test_buckets_of_a_packed_row_train_by_them(flash, lengths):
    """Where the variable-length path is not taken, and sequences are gathered."""
    tensors = draw(1, sum(lengths), sum(lengths), 9, torch.bfloat16)
    own = PackedPart.of_lengths(lengths, device=CPU)
    check(tensors, own, PrefixPart(), packed_visible(lengths, 9))
    assert len(flash.of(BACKWARD)) == len(own.buckets) + 1


def read(reading, leaves, window, softcap=None):
    """Output of one layer's attention, and the gradients of ``leaves``: query, key, value, the prefix's, its biases."""
    query, key, value, *prefix = leaves
    sides = zip(("keys", "values", "biases"), prefix, strict=False)
    reading = replace(reading, **{name: [x] for name, x in sides})
    extras = {} if softcap is None else {"softcap": softcap}
    layer = LayerCall(layer=0, real=None, scale=query.shape[-1] ** -0.5, window=window, extras=extras)
    out = reading.begin({}).attend(query, key, value, layer)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out.device).double()
    return out, *torch.autograd.grad((out.double() * weights).sum(), leaves)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("prefix", ["", "prefix", "biased"])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)], ids=str)
@pytest.mark.parametrize("lengths", [(9,), (1, 1), (7, 1, 12, 3)], ids=str)
def test_the_variable_length_path_gives_what_the_plain_path_gives(
    flash, lengths, heads, prefix, window, dtype
):
    """Of the same rounded tensors in fp64: outputs, and gradients of queries, keys, values, prefix and biases."""
    generator, tokens = torch.Generator().manual_seed(1), sum(lengths)
    shapes = [(1, heads[0], tokens, 16), *[(1, heads[1], tokens, 16)] * 2]
    shapes += [(heads[1], 5, 16)] * 2 if prefix else []
    drawn = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    if prefix == "biased":
        drawn.append(torch.randn(heads[1], 5, generator=generator))
    results = []
    for kind in (torch.float64, None):
        leaves = [x.to(kind or x.dtype).requires_grad_() for x in drawn]
        results.append(read(Reading(lengths=lengths, cum_seq=cum_seq_of(lengths)), leaves, window))
        if kind is not None:
            assert not flash.calls
    for mine, plain in zip(results[1], results[0], strict=True):
        rounding = {torch.bfloat16: 4e-2, torch.float16: 6e-3}[dtype]
        assert (mine.double() - plain).norm() <= rounding * plain.norm() + 1e-12
    # The prefix has a call of its own where all tokens see all of it, and none where a window hides some of it.
    dense = bool(prefix) and window in (None, 100)
    for calls in (flash.of(FORWARD), flash.of(BACKWARD)):
        assert [call["cum_seq_q"] is not None for call in calls] == ([True, False] if dense else [True])
        assert {call["key"].shape[-2] for call in calls} == {heads[1]}
        if window in (1, 3) and prefix == "prefix":
            assert calls[0]["key"].shape[0] == tokens + len(lengths) * (window - 1)


@pytest.mark.parametrize("window", [None, 4], ids=str)
def test_a_row_that_is_not_of_these_lengths_is_refused(flash, window):
    leaves = [x.detach().requires_grad_() for x in draw(1, 7, 7, 4, torch.bfloat16)]
    leaves = [*leaves[:3], *(x[0] for x in leaves[3:])]
    with pytest.raises(ValueError, match="lengths of packed sequences sum to 6; .* 7 tokens"):
        read(Reading(lengths=(3, 3)), leaves, window)


def test_sequences_without_tokens_are_left_out(flash):
    leaves = [x.detach().requires_grad_() for x in draw(1, 7, 7, 4, torch.bfloat16)]
    leaves = [*leaves[:3], *(x[0].detach().requires_grad_() for x in leaves[3:])]
    for window in (None, 3):
        for mine, theirs in zip(
            *(read(Reading(lengths=x), leaves, window) for x in ((0, 3, 0, 4), (3, 4))), strict=True
        ):
            assert torch.equal(mine, theirs)


def test_soft_caps_take_the_path_that_knows_them(flash):
    leaves = [x.detach()[..., :].requires_grad_() for x in draw(1, 7, 7, 4, torch.bfloat16)]
    leaves = [*leaves[:3], *(x[0].detach().requires_grad_() for x in leaves[3:])]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    reading = Reading(lengths=(3, 4))
    for mine, plain in zip(*(read(reading, x, None, softcap=1.5) for x in (leaves, exact)), strict=True):
        assert (mine.double() - plain).norm() <= 2e-2 * plain.norm()
    assert not flash.calls


def test_a_prefix_of_one_row_is_read_without_a_copy(flash):
    """Several rows are laid one after the other to read it once; a single row is handed over as it lies."""
    query, key, value, *_ = draw(1, 6, 9, 9, torch.bfloat16)
    query = query.detach().transpose(1, 2).contiguous().transpose(1, 2)
    PrefixPart().attend(query, key, value, 0.4)
    (call,) = flash.of(FORWARD)
    assert call["query"].data_ptr() == query.data_ptr()


def test_biases_of_the_prefixs_keys_go_through_them(flash):
    tensors = draw(2, 6, 6, 9, torch.bfloat16)
    biases = torch.randn(2, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    own, prefix, results = RowsPart(causal=True), PrefixPart(), []
    for dtype in (torch.bfloat16, torch.float32):
        leaves = [*(x.detach().to(dtype).requires_grad_() for x in tensors), biases]
        out = MergedAttention.apply(*leaves[:5], 0.4, own, prefix, biases)
        results.append([out, *torch.autograd.grad(out.float().square().sum(), leaves)])
    assert [call["query"].shape[-1] for call in flash.of(BACKWARD)] == [8, 16]
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours.float(), reference.float(), atol=8e-2, rtol=8e-2)


def test_strides_that_the_kernel_cannot_load_are_copied(flash):
    """The last dimension is not contiguous, rows begin at odd places, and the log-sum-exp lies in another order."""
    query, key, value = (
        torch.randn(2, 16, 4, 6).to(torch.bfloat16).transpose(2, 3).transpose(1, 3) for _ in "qkv"
    )
    key = torch.nn.functional.pad(key, (1, 4))[..., 1:17]
    out, lse = flash_forward(query, key, value, 0.3, True)
    scattered = lse.transpose(1, 2).contiguous().transpose(1, 2)
    grads = [flash_backward(out, query, key, value, out, x, 0.3, True) for x in (lse, scattered)]
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


def test_a_training_step_of_a_model_gives_the_gradients_of_fp32(flash):
    """Packed conversations, layers recomputed, in bf16 by flash attention, against fp32 without it."""
    lengths, gradients = (7, 1, 12, 30), []
    model = copy.deepcopy(tiny_model("llama"))
    cartridge = Cartridge(*prefill(model, torch.arange(3, 22)), num_frozen_tokens=2)
    ids = torch.randint(3, VOCAB, (1, sum(lengths)), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(n) for n in lengths])[None] + cartridge.num_tokens
    for dtype in (torch.float32, torch.bfloat16):
        model.to(dtype)
        keys, values = cartridge.tensors(dtype=dtype)
        reading = Reading(keys=keys, values=values, position_ids=positions, lengths=lengths)
        cartridge.zero_grad()
        with reads_prefixes(model), recomputes_layers(model):
            logits = model(ids, position_ids=positions, use_cache=False, reading=reading).logits
            logits.float().log_softmax(-1)[0, :, 5].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in cartridge.parameters()]))
    assert len(flash.of(BACKWARD)) == model.config.num_hidden_layers * 2
    exact, ours = gradients
    assert (ours - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("taken", "width", "value_width", "dtype"),
    [
        *[(True, 8, 8, torch.bfloat16), (True, 192, 192, torch.float16), (True, 256, 256, torch.bfloat16)],
        *[
            (False, 12, 12, torch.bfloat16),
            (False, 264, 264, torch.bfloat16),
            (False, 24, 16, torch.bfloat16),
        ],
        *[(False, 200, 200, torch.bfloat16), (False, 64, 64, torch.float32), (False, 64, 64, torch.float64)],
    ],
)
def test_what_they_cannot_read_is_left_to_plain_products(taken, width, value_width, dtype):
    query, key = (torch.empty(1, 2, 3, width, dtype=dtype) for _ in "qk")
    value = torch.empty(1, 2, 3, value_width, dtype=dtype)
    assert flash_takes(query, key, value) is taken
    assert not flash_takes(query, key.double(), value), "another dtype"
    assert not flash_takes(query[:, :, :0], key, value), "no query"
    assert not flash_takes(query, key[:, :, :0], value[:, :, :0]), "no key"


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_cards_before_ampere_have_no_flash_attention(monkeypatch, capability, expected):
    assert not has_flash(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    assert has_flash.__wrapped__(torch.device("cuda", 0)) is expected
