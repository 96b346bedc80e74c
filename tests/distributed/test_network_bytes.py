"""What two processes send each other, and hold, against the formulas of docs/scaling.md."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks._scaling_measured import small_llama
from lit_cartridges.estimates import counts as scaling
from lit_cartridges.estimates.shapes import Row, Shape
from tests.distributed.processes import ROOT, environments, results
from tests.tiny_models import VOCAB
from tests.tiny_run import save_corpus, tokenizer

pytestmark = pytest.mark.distributed  # `make test-distributed`

SHAPE = Shape(layers=3, width=64, mlp_width=256, heads=8, kv_heads=2, vocabulary=VOCAB, head_dim=16)
TOKENS, CHUNK_TOKENS, STEPS, ELEMENT = 64, 40, 3, 4
RUNS = ["ddp", "zero1", "zero2", "zero3", "zero3-recomputing"]


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counted")
    model = small_llama(SHAPE, torch.float32)
    model.config.update({"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2})
    model.save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    job = {"model": str(folder / "model"), "corpus": save_corpus(folder / "corpus.txt"), "num_tokens": TOKENS}
    jobs = [{**job, "name": name, "strategy": name.split("-")[0], "recompute": "-" in name} for name in RUNS]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    run_two_processes(folder)
    return {name: results(folder, name, 2) for name in RUNS}


def run_two_processes(folder: Path) -> None:
    logs = [folder / f"log-{rank}.txt" for rank in (0, 1)]
    workers = []
    for log, environment in zip(logs, environments(2), strict=True):
        command = [sys.executable, "-m", "tests.distributed.counting_worker", str(folder)]
        with log.open("w") as output:
            workers.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )
    end = time.monotonic() + 900
    while time.monotonic() < end and {worker.poll() for worker in workers} in ({None}, {None, 0}):
        time.sleep(0.2)
    codes = [worker.poll() for worker in workers]
    for worker in workers:
        worker.kill()  # where one failed, the other waits for it
        worker.wait()
    assert codes == [0, 0], "\n".join(log.read_text()[-4000:] for log in logs)


def payload(part: dict, phase: str, name: str) -> int:
    return sum(size for *where, size in part["payload"] if where == [phase, name])


@pytest.mark.parametrize("name", RUNS)
def test_an_optimizer_step_sums_the_gradient_of_the_cartridge_alone(counted, name):
    expected = STEPS * scaling.ddp_payload_bytes(SHAPE, TOKENS)
    for part in counted[name]:
        summed = payload(part, "training", "allreduce")
        assert summed == pytest.approx(expected, abs=STEPS * 8)  # DeepSpeed adds a number


@pytest.mark.parametrize("name", ["zero1", "zero2"])
def test_zero_hands_out_the_cartridge_and_no_frozen_weight(counted, name):
    for part in counted[name]:
        assert payload(part, "training", "allgather_base") == STEPS * scaling.ddp_payload_bytes(SHAPE, TOKENS)
        assert payload(part, "generating", "allgather_base") == 0


@pytest.mark.parametrize("name", ["zero3", "zero3-recomputing"])
def test_zero3_gathers_the_layers_twice_a_step_and_once_a_generated_token(counted, name):
    cartridge = scaling.ddp_payload_bytes(SHAPE, TOKENS)
    for part in counted[name]:
        assert part["forward_calls"]["training"] == STEPS
        training = payload(part, "training", "allgather_base")
        assert training == STEPS * (scaling.gathered_for_training_bytes(SHAPE, ELEMENT) + cartridge)
        calls = part["forward_calls"]["generating"]
        assert calls > 100
        assert payload(part, "generating", "allgather_base") == calls * scaling.gathered_bytes(SHAPE, ELEMENT)


@pytest.mark.parametrize("name", RUNS)
def test_the_peak_of_a_step(counted, name):
    """Frozen weights, cartridge, optimizer, and the step itself: within a tenth, from the second step on (moments)."""
    for part in counted[name]:
        for batch, peak in list(zip(part["batches"], part["peak_bytes"], strict=True))[1:]:
            assert resident_bytes(name) + step_bytes(batch, name) == pytest.approx(peak, rel=0.1)


def resident_bytes(name: str) -> float:
    """What a process holds between steps; the teacher's last chunk among it."""
    chunk = CHUNK_TOKENS * SHAPE.kv_elements * ELEMENT
    weights: float = scaling.whole_weight_bytes(SHAPE, ELEMENT)
    if name.startswith("zero3"):
        weights = scaling.sharded_weight_bytes(SHAPE, 2, ELEMENT) + scaling.kept_weight_bytes(SHAPE, ELEMENT)
        weights += scaling.gathered_unit_bytes(SHAPE, ELEMENT)
    if name == "ddp":
        return chunk + weights + scaling.cartridge_bytes(SHAPE, TOKENS)
    return chunk + weights + scaling.zero_cartridge_bytes(SHAPE, TOKENS, 2)


def step_bytes(batch: dict, name: str) -> int:
    """The activations; or, where DeepSpeed's buckets have the size that they have in life, these."""
    row = Row(
        lengths=tuple(batch["lengths"]),
        answers=batch["answers"],
        prefix_tokens=TOKENS,
        recompute="-" in name,
        element_bytes=ELEMENT,
    )
    buckets = scaling.ZERO_BUCKET_ELEMENTS if name == "zero1" else 0
    exchange = scaling.exchange_bytes(SHAPE, TOKENS, ELEMENT, bucket_elements=buckets)
    return max(scaling.kept_bytes(SHAPE, row) + scaling.working_bytes(SHAPE, row), exchange)
