"""In a section, processes run two models unequally often, and every forward call is still one of all of them.

Each model's first layer exchanges its number, as a sharded layer exchanges weights: two processes that ran different
models at a time would notice, and one that ran a model alone would wait for ever.
"""

from __future__ import annotations

import json
import multiprocessing
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch

from lit_cartridges.attention import NAME
from lit_cartridges.strategies.lock_step import LockStep
from tests.tiny_models import tiny_model

MODELS = ("llama", "qwen2")
# Per section and process, the models that it runs, in its order.
WORK = [
    ([0, 0, 1, 0], [1]),
    ([], [0, 1, 0, 1, 1]),
    ([], []),
    ([0], [0]),
]


def exchange(index: int, seen: list[int], module, args) -> None:
    numbers = torch.tensor([index, -index])
    torch.distributed.all_reduce(numbers, op=torch.distributed.ReduceOp.MAX)
    assert numbers.tolist() == [index, -index], "the processes run different models"
    seen.append(index)


def work(rank: int, folder: Path, fails: bool) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    models, seen, sections = [tiny_model(name) for name in MODELS], [], []
    for index, model in enumerate(models):
        model.model.layers[0].register_forward_pre_hook(partial(exchange, index, seen))
    lock_step = LockStep(models, device=torch.device("cpu"))
    ids, outputs, error = torch.arange(9)[None], [], ""
    try:
        for number, shares in enumerate(WORK):
            with lock_step.section(), torch.no_grad():
                for index in shares[rank]:
                    outputs.append(models[index](ids).logits.sum().item())
                if fails and rank == 1 and number == 1:
                    raise ZeroDivisionError("on purpose")
            sections.append(list(seen))
            seen.clear()
    except (RuntimeError, ZeroDivisionError) as caught:
        error = f"{type(caught).__name__}: {caught}"
    alone = [model.config._attn_implementation != NAME for model in models]
    found = {"sections": sections, "outputs": outputs, "error": error, "attention": alone}
    (folder / f"{rank}.json").write_text(json.dumps(found))


def run(folder: Path, *, fails: bool) -> list[dict]:
    for name in MODELS:
        tiny_model(name)
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=work, args=(rank, folder, fails)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
        assert worker.exitcode == 0, "a process failed or hangs"
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_all_run_every_forward_call_together(tmp_path):
    found = run(tmp_path, fails=False)
    assert found[0]["sections"] == found[1]["sections"]
    # Model 0 comes first where both are wanted; a process that wants the other waits, and runs along.
    assert found[0]["sections"] == [[0, 0, 1, 0], [0, 1, 0, 1, 1], [], [0]]
    for rank, part in enumerate(found):
        ids = torch.arange(9)[None]
        wanted = [tiny_model(MODELS[i])(ids).logits.sum().item() for shares in WORK for i in shares[rank]]
        assert part["outputs"] == pytest.approx(wanted)
        assert part["attention"] == [True, True]


def test_a_failure_ends_the_section_everywhere(tmp_path):
    zero, one = run(tmp_path, fails=True)
    assert one["error"] == "ZeroDivisionError: on purpose"
    assert "another process failed while this one was generating" in zero["error"]
    assert len(zero["sections"]) == len(one["sections"]) == 1
