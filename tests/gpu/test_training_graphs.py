"""Training steps by CUDA graphs against the same steps without; on the CPU, `CudaFlash` and `RecordedGraph` play the device."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from lit_cartridges.attention import kernels
from lit_cartridges.losses import FullDistillation, NextToken
from lit_cartridges.models import step_graphs
from tests.attention.cuda_flash import CudaFlash
from tests.dispatched import InStep
from tests.gpu.agreement import CARDS, MODELS, TOLERANCE, exact_model, require_agreement
from tests.gpu.test_training_step import RaisesWhereItWaits
from tests.recorded_graph import recorded
from tests.tiny_run import fit, from_recording, new_module, tokenizer


def run(folder, corpus, recording, device, *callbacks, options=None, **trainer):
    """A run of six steps, its losses, and how many of them were graphs."""
    module, replays = new_module(str(folder / "model"), **(options or {})), []
    graphs = module.__class__.on_train_end

    def ended():
        replays.append(module._graphs.graphs.replays if module._graphs else 0)
        graphs(module)

    module.on_train_end = ended
    _, curve = fit(
        *(folder, module, from_recording(corpus, recording), *callbacks),
        **({"accelerator": device, "max_steps": 6, "log_every_n_steps": 3} | trainer),
    )
    return module, torch.tensor(curve.losses), replays[0]


@pytest.fixture
def played(request, monkeypatch):
    """What there is no card for: on the CPU graphs are recorded, on a pretended card the padded step is made anew."""
    words = request.node.callspec.id.split("-")
    if "cpu" not in words and "pretended" not in words:
        return
    monkeypatch.setattr(kernels, "has_flash", lambda device: True)
    monkeypatch.setattr(step_graphs, "captures", lambda device: True)
    if "cpu" in words:
        monkeypatch.setattr(step_graphs, "captured", recorded)
        return
    monkeypatch.setattr(step_graphs, "captured", lambda step, beside: SimpleNamespace(replay=step))
    # It counts its waits itself, and to torch it is another device than it says.
    monkeypatch.setattr(step_graphs, "_COPYING", frozenset())


@pytest.mark.parametrize("device", ["cpu", *CARDS])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in MODELS),
        ("llama", {"gradient_checkpointing": True}),
        ("llama", {"objective": NextToken()}),
        ("mistral", {"objective": FullDistillation()}),
    ],
    ids=[*MODELS, "recomputed", "next token", "distilled"],
)
def test_a_run_by_graphs_is_the_run_without(
    tmp_path, corpus, recorded_conversations, name, options, dtype, device, played
):
    exact_model(name).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    runs = []
    for cuda_graphs in (False, True):
        refused = cuda_graphs and name == "gemma2"
        expected = pytest.warns(UserWarning, match="Gemma2.*flash attention") if refused else nullcontext()
        with CudaFlash() if device == "cpu" else nullcontext(), expected:
            runs.append(
                run(
                    *(tmp_path, corpus, recorded_conversations, device),
                    options={"dtype": dtype, "cuda_graphs": cuda_graphs, **options},
                    accumulate_grad_batches=2,
                )
            )
    (plain, losses, none), (module, ours, replays) = runs
    assert none == 0 and (replays > 4) == (name != "gemma2")
    torch.testing.assert_close(ours, losses, rtol=TOLERANCE[getattr(torch, dtype)], atol=0)
    for mine, theirs in zip(module.cartridge.parameters(), plain.cartridge.parameters(), strict=True):
        require_agreement(mine, theirs, getattr(torch, dtype))


@pytest.fixture
def recorded_conversations(request):
    """The fixture of that name in the whole house, which `recorded` hides here."""
    return request.getfixturevalue("recorded")


@pytest.mark.parametrize("device", CARDS)
def test_replayed_steps_wait_for_nothing(tmp_path, corpus, recorded_conversations, device, played):
    """Once their buckets are known; captures wait, as torch makes them."""
    exact_model("mistral").save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    step = InStep(RaisesWhereItWaits(), skipped_steps=20)
    try:
        _, _, replays = run(
            *(tmp_path, corpus, recorded_conversations, device, step),
            options={"dtype": "bfloat16", "cuda_graphs": True},
            max_steps=24,
            log_every_n_steps=100,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step.steps == 4 and replays >= 16
