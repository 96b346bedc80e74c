"""The fused and the plain kernels give softmax attention, its log-sum-exp and its gradients."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.attention.kernels import (
    HIDDEN,
    additive_mask,
    attend,
    attend_backward,
    attend_backward_plain,
    attend_plain,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TOLERANCE = {
    torch.float32: {"atol": 2e-5, "rtol": 1e-4},
    torch.bfloat16: {"atol": 4e-2, "rtol": 4e-2},
    torch.float16: {"atol": 5e-3, "rtol": 5e-3},
}
LSE_TOLERANCE = {"atol": 2e-3, "rtol": 1e-3}


def inputs(dtype, device, *, rows=2, heads=4, kv_heads=2, tokens=7, keys=7, dim=16, value_dim=None):
    generator = torch.Generator().manual_seed(tokens * 100 + keys)
    shapes = (
        (rows, heads, tokens, dim),
        (rows, kv_heads, keys, dim),
        (rows, kv_heads, keys, value_dim or dim),
    )
    return [torch.randn(shape, generator=generator).to(dtype).to(device) for shape in shapes]


def naive(query, key, value, scale, *, causal=False, mask=None):
    """Softmax attention in fp64, one query at a time; differentiable."""
    query, key, value = (x.double() for x in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    outs, lses = [], []
    for row in range(query.shape[0]):
        for head in range(query.shape[1]):
            for place in range(query.shape[2]):
                scores = key[row, head // groups] @ query[row, head, place] * scale
                if mask is not None:
                    scores = (
                        scores
                        + mask.expand(query.shape[0], 1, query.shape[2], key.shape[2])[row, 0, place].double()
                    )
                seen = place + 1 if causal else len(scores)
                outs.append(scores[:seen].softmax(0) @ value[row, head // groups, :seen])
                lses.append(scores[:seen].logsumexp(0))
    shape = query.shape[:3]
    return torch.stack(outs).view(*shape, -1), torch.stack(lses).view(shape)


def naive_gradients(grad, query, key, value, scale, **masks):
    leaves = [x.detach().double().requires_grad_() for x in (query, key, value)]
    out, _ = naive(*leaves, scale, **masks)
    return torch.autograd.grad(out, leaves, grad.double())


def random_mask(tokens, keys, dtype, device, rows=1):
    hidden = torch.rand(rows, 1, tokens, keys, generator=torch.Generator().manual_seed(3)) < 0.4
    hidden[..., 0] = False
    return additive_mask(hidden.to(device), dtype)


CASES = {
    "causal": ({"tokens": 7, "keys": 7}, "causal"),
    "all keys": ({"tokens": 5, "keys": 11}, None),
    "masked": ({"tokens": 5, "keys": 11}, "mask"),
    "masked per row": ({"tokens": 5, "keys": 11}, "row mask"),
    "one query": ({"tokens": 1, "keys": 9}, None),
    "one key": ({"tokens": 3, "keys": 1}, None),
    "multi-head": ({"kv_heads": 4}, "causal"),
    "one kv head": ({"kv_heads": 1}, "causal"),
}


def masks_of(kind, shape, dtype, device):
    tokens, keys = shape.get("tokens", 7), shape.get("keys", 7)
    if kind == "causal":
        return {"causal": True}
    if kind is None:
        return {}
    return {"mask": random_mask(tokens, keys, dtype, device, rows=2 if kind == "row mask" else 1)}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize(
    "kernels", [(attend, attend_backward), (attend_plain, attend_backward_plain)], ids=["fused", "plain"]
)
def test_output_lse_and_gradients_are_those_of_softmax(kernels, case, dtype, device):
    shape, kind = CASES[case]
    query, key, value = inputs(dtype, device, **shape)
    masks, scale = masks_of(kind, shape, dtype, device), 0.3
    forward, backward = kernels
    out, lse = forward(query, key, value, scale, **masks)
    expected, expected_lse = naive(query, key, value, scale, **masks)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(out.double(), expected, **TOLERANCE[dtype])
    torch.testing.assert_close(lse.double(), expected_lse, **LSE_TOLERANCE)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype).to(device)
    ours = backward(grad, query, key, value, out, lse, scale, **masks)
    theirs = naive_gradients(grad, query, key, value, scale, **masks)
    for mine, reference, like in zip(ours, theirs, (query, key, value), strict=True):
        assert (mine.shape, mine.dtype) == (like.shape, dtype)
        torch.testing.assert_close(mine.double(), reference, **TOLERANCE[dtype])


def test_queries_are_taken_in_chunks_without_a_seam(monkeypatch):
    query, key, value = inputs(torch.float32, "cpu", tokens=11, keys=11)
    whole = attend_plain(query, key, value, 0.3, causal=True)
    grads = attend_backward_plain(query, query, key, value, *whole, 0.3, causal=True)
    monkeypatch.setattr("lit_cartridges.attention.plain._CHUNK_TOKENS", 4)
    chunked = attend_plain(query, key, value, 0.3, causal=True)
    for mine, reference in zip(chunked, whole, strict=True):
        torch.testing.assert_close(mine, reference)
    for mine, reference in zip(
        attend_backward_plain(query, query, key, value, *chunked, 0.3, causal=True), grads, strict=True
    ):
        torch.testing.assert_close(mine, reference)


def test_values_may_be_wider_than_keys():
    query, key, value = inputs(torch.float32, "cpu", value_dim=24)
    out, lse = attend(query, key, value, 0.3, causal=True)
    expected, _ = naive(query, key, value, 0.3, causal=True)
    torch.testing.assert_close(out.double(), expected, **TOLERANCE[torch.float32])
    grads = attend_backward(out, query, key, value, out, lse, 0.3, causal=True)
    for mine, reference in zip(grads, naive_gradients(out, query, key, value, 0.3, causal=True), strict=True):
        torch.testing.assert_close(mine.double(), reference, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("forward", [attend, attend_plain], ids=["fused", "plain"])
def test_a_query_that_sees_nothing_has_a_finite_output_and_no_weight_in_a_merge(forward, dtype):
    query, key, value = inputs(dtype, "cpu")
    hidden = torch.zeros(1, 1, 7, 7, dtype=torch.bool)
    hidden[..., 2, :] = True
    out, lse = forward(query, key, value, 0.3, mask=additive_mask(hidden, dtype))
    assert out.isfinite().all()
    assert (lse[:, :, 2] < HIDDEN / 2).all()
    assert ((lse[:, :, 2] - torch.logaddexp(lse[:, :, 2], torch.zeros(()))).exp() == 0).all()


def test_a_mask_for_fp16_is_fp32_since_fp16_cannot_hold_its_value():
    hidden = torch.tensor([[True, False]])
    for dtype, expected in (
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32),
    ):
        mask = additive_mask(hidden, dtype)
        assert mask.dtype == expected
        assert mask[0, 0] < -1e29
        assert mask[0, 1] == 0
