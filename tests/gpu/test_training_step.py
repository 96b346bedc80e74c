"""Training steps on packed conversations, with layers recomputed, sliding windows, soft-caps and sinks."""

from __future__ import annotations

from contextlib import nullcontext

import lightning as L
import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.data import Recorded
from lit_cartridges.losses import FullDistillation, NextToken
from lit_cartridges.module.recomputing import recomputes_layers
from tests.dispatched import InStep
from tests.gpu.agreement import (
    CARDS,
    DEVICES,
    HALVES,
    MODELS,
    TOLERANCE,
    exact_model,
    model_on,
    require_agreement,
    tokens,
)
from tests.tiny_run import (
    fit,
    from_recording,
    new_data,
    new_module,
    tokenizer,
)

LENGTHS = (7, 1, 12, 3, 30)


def outcome(name, device, dtype, *, biased, recomputed):
    """Loss, and the gradient of every trainable number of a cartridge that five packed sequences read."""
    exact, model = exact_model(name), model_on(name, device, dtype)
    keys, values = prefill(exact, tokens(9))
    generator = torch.Generator().manual_seed(4)
    biases = [torch.randn(x.shape[:2], generator=generator) for x in keys] if biased else None
    cartridge = Cartridge(keys, values, biases, num_frozen_tokens=2).to(device)
    ids = tokens(1, sum(LENGTHS), seed=1).to(device)
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None].to(device) + cartridge.num_tokens
    keys, values = cartridge.tensors(dtype=model.dtype)
    reading = Reading(
        keys=keys, values=values, biases=cartridge.biases(), position_ids=positions, lengths=LENGTHS
    )
    with reads_prefixes(model), recomputes_layers(model) if recomputed else nullcontext():
        logits = model(ids, position_ids=positions, use_cache=False, reading=reading).logits[0]
        answers = tokens(ids.shape[1], seed=2).to(device)
        loss = torch.nn.functional.cross_entropy(logits.float(), answers)
        loss.backward()
    return loss, torch.cat([x.grad.flatten() for x in cartridge.parameters()])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("name", list(MODELS))
def test_loss_and_gradients_of_packed_rows(name, biased, dtype, device):
    exact = outcome(name, "cpu", torch.float32, biased=biased, recomputed=False)
    for mine, theirs in zip(
        outcome(name, device, dtype, biased=biased, recomputed=not biased), exact, strict=True
    ):
        require_agreement(mine, theirs, dtype)


class FirstGradient(L.Callback):
    """Every trainable number's gradient in the first step."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if not hasattr(self, "gradient"):
            parameters = [x for x in pl_module.cartridge.parameters() if x.requires_grad]
            self.gradient = torch.cat([x.grad.flatten().cpu() for x in parameters])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["mistral", "gemma2"])
def test_steps_of_a_run(tmp_path, corpus, recorded, name, dtype, device):
    exact_model(name).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    losses, gradients = [], []
    for where, kind in (("cpu", "float32"), (device, dtype)):
        module = new_module(str(tmp_path / "model"), dtype=kind, gradient_checkpointing=kind != "float32")
        first = FirstGradient()
        _, curve = fit(
            *(tmp_path / where / kind, module, from_recording(corpus, recorded), first),
            accelerator=where,
            max_steps=3,
        )
        assert {x.dtype for x in module.cartridge.parameters()} == {torch.float32}
        losses.append(torch.tensor(curve.losses))
        gradients.append(first.gradient)
    require_agreement(gradients[1], gradients[0], getattr(torch, dtype))
    torch.testing.assert_close(losses[1], losses[0], rtol=TOLERANCE[getattr(torch, dtype)], atol=0)


class RaisesWhereItWaits:
    """A mode in which torch raises where the CPU would wait for the device."""

    def __enter__(self) -> None:
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *error: object) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", CARDS)
@pytest.mark.parametrize("objective", [None, NextToken(), FullDistillation()], ids=type)
@pytest.mark.parametrize("recomputed", [False, True], ids=["", "recomputed"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
def test_no_step_waits_for_the_device(tmp_path, corpus, recorded, name, objective, recomputed, device):
    """Forward and backward pass, once the first step has made what is made once; tests/module counts the same on the CPU."""
    exact_model(name).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    module = new_module(
        str(tmp_path / "model"), dtype="bfloat16", objective=objective, gradient_checkpointing=recomputed
    )
    options = {"top_k": 4} if objective is None else {}
    data = new_data(corpus, source=Recorded(path=recorded, **options))
    step = InStep(RaisesWhereItWaits(), skipped_steps=1)
    try:
        fit(tmp_path, module, data, step, accelerator=device, log_every_n_steps=100, max_steps=4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step.steps == 3
