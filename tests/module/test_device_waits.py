"""A training step keeps a GPU busy: the CPU never waits for it between the batch's arrival and the end of the backward pass."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lit_cartridges.attention import kernels
from lit_cartridges.attention.parts import PackedPart
from lit_cartridges.data import Recorded
from lit_cartridges.losses import FullDistillation, NextToken
from lit_cartridges.module.finite_losses import FiniteLosses
from tests.attention.cuda_flash import BACKWARD, CudaFlash
from tests.dispatched import Dispatched, InStep
from tests.gpu.agreement import exact_model
from tests.tiny_run import fit, new_data, new_module, tokenizer


@pytest.fixture
def flash(monkeypatch):
    """The CPU in the part of a CUDA device, as in tests/attention."""
    monkeypatch.setattr(kernels, "has_flash", lambda device: True)
    monkeypatch.setattr(kernels, "_fused_on_cpu", lambda *tensors: False)
    with CudaFlash() as mode:
        yield mode


class Happened:
    """An event that has happened."""

    def synchronize(self) -> None:
        pass


def data_for(corpus, recorded, objective):
    options = {"top_k": 4} if objective is None else {}
    return new_data(corpus, source=Recorded(path=recorded, **options))


@pytest.mark.parametrize(
    ("name", "objective", "options"),
    [
        ("llama", None, {}),
        ("llama", None, {"gradient_checkpointing": True}),
        ("llama", NextToken(), {}),
        ("llama", FullDistillation(), {}),
        ("mistral", None, {}),
        ("gemma2", None, {}),
    ],
)
def test_no_step_waits_for_the_device(
    tmp_path, corpus, recorded, flash, monkeypatch, name, objective, options
):
    """Windows and soft-caps too. Outside: logging, and the loss of the micro-batch before; Adam is in test_optimizers."""
    packed = partial(PackedPart.of_lengths, device=torch.device("cpu"))
    monkeypatch.setattr(
        "lit_cartridges.attention.reading.SlicedPart", lambda n, window: packed(n, window=window)
    )
    monkeypatch.setattr(FiniteLosses, "_on_its_way", staticmethod(lambda loss: (loss.clone(), Happened())))
    exact_model(name).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    module = new_module(str(tmp_path / "model"), dtype="bfloat16", objective=objective, **options)
    step = InStep(Dispatched())
    fit(tmp_path, module, data_for(corpus, recorded, objective), step, log_every_n_steps=100, max_steps=3)
    assert step.steps == 3
    looked_at = step.mode.waits.pop("_local_scalar_dense")
    assert looked_at == 2, "the loss of each step in the next one"
    assert not step.mode.waits
    per_step = {"llama": 2 * 2, "mistral": 2, "gemma2": 0}[name]
    if not options:
        assert len(flash.of(BACKWARD)) == 3 * per_step


def test_waits_are_found():
    """What the other tests look for."""
    x = torch.arange(4.0)
    found = [
        *((lambda: x.sum().item(), "_local_scalar_dense"), (lambda: bool(x[0] > 0), "_local_scalar_dense")),
        *((lambda: x[x > 1], "index by a mask"), (lambda: (x > 1).nonzero(), "nonzero")),
        *((lambda: x.tolist(), ""), (lambda: x.to("meta"), "_to_copy")),
        *((lambda: x.to("meta", non_blocking=True), ""), (lambda: x[torch.tensor([1])] + 1, "")),
    ]
    for action, name in found:
        with Dispatched() as mode:
            action()
        assert list(mode.waits) == ([name] if name else []), name
