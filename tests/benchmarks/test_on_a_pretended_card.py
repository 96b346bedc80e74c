"""Every script as it runs on a CUDA device, on one that is not there: do tensors lie where they must?"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import (
    _common,
    _flex_packing,
    attention_ways,
    cascade_decode,
    cascade_kept,
    cascade_prefill,
    generation_throughput,
    long_prefill,
    serving,
    training_throughput,
)
from lit_cartridges.cascade import triton_attention
from tests.benchmarks.test_gpu_figures import figures_of, require_all_parts
from tests.benchmarks.test_scripts import _keep_threads  # noqa: F401  the fixture is used by being here
from tests.pretend_cuda import OnCard, pretend_cuda

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("default:.*past_key_values.*:FutureWarning"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real one"),
]


@pytest.fixture
def card(monkeypatch):
    """Kernels that need a real one give way to plain ones."""
    monkeypatch.setattr(triton_attention, "DEVICE_TYPES", set())
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(_flex_packing, "flex_attention", plain_flex_attention)
    monkeypatch.setitem(_common._PRODUCTS, "cuda", ((8, 8, 8),))
    with pretend_cuda() as waits:
        yield waits


def plain_flex_attention(query, key, value, *, block_mask, scale, enable_gqa):
    places = (torch.arange(x.shape[2], device=x.device) for x in (query, key))
    seen = block_mask.mask_mod(0, 0, *torch.meshgrid(*places, indexing="ij"))
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)


def test_every_part_of_the_figures(tmp_path, card):
    pytest.importorskip("peft")
    results = figures_of(tmp_path, "--tiny", "--budget-s", "200", "--total-s", "1200", device="cuda")[
        "results"
    ]
    require_all_parts(results)
    missing = {name: set(part["missing"]) for name, part in results.items() if part["missing"]}
    assert missing == {"generation": {"share of vLLM's tokens a second, wanted 50%"}}
    training = results["training"]["rows"]
    assert "FlexAttention packing: its peak memory ÷ ours" in training
    assert training["ours, rows of 128: share of the datasheet's rate"]["wanted_share"] == 0.45
    assert "cuDNN, 128 tokens" in results["cascade"]["rows"]


TINY = {
    attention_ways: ("--num-tokens", "5", "--lengths", "3", "17"),
    cascade_decode: (),
    cascade_kept: (),
    cascade_prefill: (),
    generation_throughput: ("--chunk-tokens", "16", "--conversations", "2", "--steps", "0"),
    long_prefill: ("--lengths", "40"),
    serving: ("--corpus-tokens", "40", "--new-tokens", "2"),
    training_throughput: ("--size", "tiny", "--num-tokens", "8", "--lengths", "4", "12", "--no-memory"),
}


@pytest.mark.parametrize("script", TINY, ids=lambda script: script.__name__.split(".")[-1])
def test_the_other_scripts(script, card, capsys):
    pytest.importorskip("peft")
    assert script.main(["--device", "cuda", "--quick", *TINY[script]])["results"]
    assert card["synchronize"] or script is cascade_kept, "a device is waited for before the clock is read"


def test_what_a_card_refuses_is_refused(card):
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    assert isinstance(there, OnCard) and there.device == torch.device("cuda", 0) and there.is_cuda
    for wrong in (lambda: here + there, lambda: here[there.long()], lambda: torch.cat([here, there])):
        with pytest.raises(RuntimeError, match="same device"):
            wrong()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert (here[0] * there).tolist() == [1, 1, 1], "a number of the CPU goes anywhere"
    assert torch.equal(there.cpu(), here) and there.to("cpu").device.type == "cpu"
    assert torch.empty(2, device="meta").is_meta, "the meta device stays what it is"


def test_waiting_for_a_card_is_counted_and_refused_where_torch_would(card):
    there = torch.arange(4, device="cuda")
    for waits in (there.tolist, there.sum().item, there.nonzero, there.cpu, lambda: there[there > 1]):
        before = card.total()
        waits()
        assert card.total() == before + 1
    before = card.total()
    torch.ones(2).to("cuda", non_blocking=True)
    there[there.flip(0)] + there.where(there > 1, 0)
    assert card.total() == before
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="synchronizing"):
        there.sum().item()


def test_gradients_are_those_of_the_cpu(card):
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(4, 3, generator=generator), torch.randn(5, 3, generator=generator)
    grads = []
    for device in ("cpu", "cuda"):
        leaf = weight.clone().to(device).requires_grad_()
        torch.nn.functional.linear(x.to(device), leaf).softmax(-1)[:, 0].sum().backward()
        assert leaf.grad.device.type == device
        grads.append(leaf.grad.cpu())
    assert torch.equal(*grads)
