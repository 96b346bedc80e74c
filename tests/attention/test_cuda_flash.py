"""The calls that CUDA's flash attention gets from us, pinned on machines without a CUDA device (see cuda_flash)."""

from __future__ import annotations

import copy

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention import kernels as attention_kernels
from lit_cartridges.attention.kernels import flash_backward, flash_forward, flash_takes, has_flash
from lit_cartridges.attention.merged import MergedAttention
from lit_cartridges.attention.parts import PackedPart, PrefixPart, RowsPart
from lit_cartridges.attention.prefill import prefill
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
    assert [(x.name, str(x.type)) for x in FORWARD._schema.arguments] == [
        *[("query", "Tensor"), ("key", "Tensor"), ("value", "Tensor"), ("dropout_p", "float")],
        *[("is_causal", "bool"), ("return_debug_mask", "bool"), ("scale", "Optional[float]")],
    ]
    assert [(x.name, str(x.type)) for x in BACKWARD._schema.arguments] == [
        *[("grad_out", "Tensor"), ("query", "Tensor"), ("key", "Tensor"), ("value", "Tensor")],
        *[("out", "Tensor"), ("logsumexp", "Tensor"), ("cum_seq_q", "Tensor"), ("cum_seq_k", "Tensor")],
        *[("max_q", "int"), ("max_k", "int"), ("dropout_p", "float"), ("is_causal", "bool")],
        *[("philox_seed", "Tensor"), ("philox_offset", "Tensor"), ("scale", "Optional[float]")],
    ]
    assert [x.name for x in FORWARD._schema.returns[:2]] == ["output", "logsumexp"]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "tokens", "keys"), [(4, 4, 6, 6), (4, 2, 6, 6), (8, 1, 1, 9)])
def test_on_the_meta_device_they_run_with_what_we_hand_them(dtype, heads, kv_heads, tokens, keys):
    """As a model makes them: query and key are views [batch, heads, tokens, width] of [batch, tokens, heads, width]."""
    query, key, value, grad = (
        torch.empty(2, n, h, 16, dtype=dtype, device="meta").transpose(1, 2)
        for n, h in ((tokens, heads), (keys, kv_heads), (keys, kv_heads), (tokens, heads))
    )
    with CudaFlash() as mode:
        out, lse = flash_forward(query, key, value, 0.3, tokens == keys)
        grads = flash_backward(grad, query, key, value, out, lse, 0.3, tokens == keys)
    assert (out.shape, out.dtype, out.stride(-1)) == (query.shape, dtype, 1)
    assert (lse.shape, lse.dtype, lse.is_contiguous()) == ((2, heads, tokens), torch.float32, True)
    assert [(x.shape, x.dtype) for x in grads] == [(x.shape, dtype) for x in (query, key, value)]
    (call,) = mode.of(BACKWARD)
    assert call["cum_seq_q"] is call["cum_seq_k"] is None
    assert (call["max_q"], call["max_k"], call["is_causal"], call["scale"]) == (
        tokens,
        keys,
        tokens == keys,
        0.3,
    )
    assert call["philox_seed"].numel() == call["philox_offset"].numel() == 0
    assert call["key"].shape[1] == call["value"].shape[1] == heads
    assert len(mode.of(FORWARD)) == 1


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_rows_behind_a_prefix_train_by_them(flash, dtype):
    tensors = draw(3, 6, 6, 9, dtype)
    visible = torch.cat([torch.ones(6, 9, dtype=torch.bool), causal(6)], 1).expand(3, -1, -1)
    rounding = {"atol": 5e-2, "rtol": 5e-2}
    check(tensors, RowsPart(causal=True), PrefixPart(), visible, tolerance=rounding)
    assert (len(flash.of(FORWARD)), len(flash.of(BACKWARD))) == (2, 2)


@pytest.mark.parametrize("lengths", [(5,), (7, 1, 12, 3, 8, 2)], ids=str)
def test_packed_rows_behind_a_prefix_train_by_them(flash, lengths):
    tensors = draw(1, sum(lengths), sum(lengths), 9, torch.bfloat16)
    own = PackedPart.of_lengths(lengths, device=CPU)
    check(tensors, own, PrefixPart(), packed_visible(lengths, 9))
    assert len(flash.of(BACKWARD)) == len(own.buckets) + 1


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


def test_a_training_step_of_a_model_gives_the_gradients_of_fp32(flash, monkeypatch):
    """Packed conversations, layers recomputed, in bf16 by flash attention, against fp32 without it."""
    lengths, gradients = (7, 1, 12, 30), []
    packed = PackedPart.of_lengths(lengths, device=CPU)
    monkeypatch.setattr(
        "lit_cartridges.attention.reading.SlicedPart", lambda *_: packed
    )  # as on an accelerator
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
    assert len(flash.of(BACKWARD)) == model.config.num_hidden_layers * (len(packed.buckets) + 1)
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
