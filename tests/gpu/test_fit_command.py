"""`lit-cartridges fit` as a user starts it, in a process of its own, against the same in fp32 on the CPU."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.cli import main
from tests.gpu.agreement import TOLERANCE, exact_model, require_agreement
from tests.tiny_run import tokenizer

STEPS = 3


def fitted(run, folder: Path, model: Path, corpus: str, recorded: str, accelerator: str, dtype: str):
    """Losses of every step, and how far training has moved each number of the cartridge."""
    settings = {
        "trainer.accelerator": accelerator,
        "trainer.devices": 1,
        "trainer.max_steps": STEPS,
        "trainer.log_every_n_steps": 1,
        "trainer.default_root_dir": folder,
        "model.model": model,
        "model.dtype": dtype,
        "model.num_tokens": 8,
        "model.learning_rate": 0.05,
        "model.warmup_steps": 0,
        "model.gradient_checkpointing": "true",
        "data.corpus": corpus,
        "data.source": "Recorded",
        "data.source.path": recorded,
        "data.tokens_per_batch": 60,
        "data.source.top_k": 4,
    }
    run(["fit", *(f"--{key}={value}" for key, value in settings.items())])
    (log,) = (folder / "logs").glob("**/metrics.csv")
    with open(log, newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
    assert len(losses) == STEPS
    cartridge = Cartridge.from_pretrained(folder / "cartridge")
    return torch.tensor(losses), torch.cat([x.flatten() for side in cartridge.tensors() for x in side])


def in_a_process_of_its_own(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "lit_cartridges.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("accelerator", "run"),
    [("cpu", main), pytest.param("gpu", in_a_process_of_its_own, marks=pytest.mark.gpu), ("gpu", main)],
    ids=["cpu", "cuda", "pretended"],
)
def test_fit(tmp_path, corpus, recorded, accelerator, run):
    """A windowed, soft-capped model in bf16, layers recomputed; the same run in fp32 beside it."""
    exact_model("gemma2").save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    given = (tmp_path / "model", corpus, recorded)
    losses, tensors = zip(
        fitted(main, tmp_path / "exact", *given, "cpu", "float32"),
        fitted(run, tmp_path / "half", *given, accelerator, "bfloat16"),
        strict=True,
    )
    torch.testing.assert_close(losses[1], losses[0], rtol=TOLERANCE[torch.bfloat16], atol=0)
    require_agreement(tensors[1], tensors[0], torch.bfloat16)
