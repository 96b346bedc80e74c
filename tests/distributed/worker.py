"""One rank of a training: reads ``FOLDER/jobs.json`` and writes ``FOLDER/NAME/rank-R.json`` for every job."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy

from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.callbacks import CartridgeCheckpoint, CompositionTest, LongContextEval
from lit_cartridges.callbacks.composition_test import OtherCartridge
from lit_cartridges.data import SelfStudyDataModule
from lit_cartridges.init import INITS, InitStrategy
from lit_cartridges.losses import FullDistillation, TopKDistillation
from lit_cartridges.models import load_model
from tests.distributed.peak_memory import PeakMemory
from tests.evals.words import WordTask
from tests.tiny_run import SaveAt, from_recording, new_data, new_module, new_trainer

SHARDS = 2


class Watch(L.Callback):
    """Per optimizer step the losses of its micro-batches and the gradient's norm; a fingerprint of each batch's tokens; and
    what the cartridge was before the first."""

    def __init__(self) -> None:
        self.started: dict[str, Any] = {}
        self.losses: list[list[float]] = [[]]
        self.norms: list[float] = []
        self.batches: list[str] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.started = as_lists(pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses[-1].append(float(outputs["loss"]))  # Lightning has divided it by the step's micro-batches
        self.batches.append(hashlib.sha256(batch.input_ids.numpy().tobytes()).hexdigest()[:12])
        if batch.stream_state is not None:
            self.losses.append([])
            self.norms.append(float(trainer.callback_metrics["train/grad_norm"]))


def as_lists(module: Any) -> dict[str, Any]:
    return {name: x.tolist() for name, x in module.state_dict().items()}


class Lose(L.Callback):
    """After optimizer step 2, one process dies (SIGKILL) or hangs (SIGSTOP)."""

    def __init__(self, rank: int, number: str) -> None:
        self.rank, self.number = rank, signal.Signals[number]

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 2 and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)


def strategy_of(name: str, options: dict[str, Any]) -> Any:
    """``options`` are those of the strategy's constructor; ``timeout_s`` becomes its ``timeout``."""
    options = dict(options)
    if "timeout_s" in options:
        options["timeout"] = timedelta(seconds=options.pop("timeout_s"))
    if not name.startswith("zero"):
        return DDPStrategy(**options) if name == "ddp" else name
    from lit_cartridges.strategies import CartridgeDeepSpeedStrategy

    return CartridgeDeepSpeedStrategy(stage=int(name[-1]), **options)


def init_of(name: str, options: dict[str, Any]) -> InitStrategy:
    return INITS[name](**options)


def run(job: dict[str, Any], folder: Path, world_size: int) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    watch, evaluation = Watch(), None
    callbacks: list[L.Callback] = [watch]
    if job.get("callbacks"):
        task = WordTask(num_questions=5)
        evaluation = LongContextEval(task=task, every_n_steps=7, max_new_tokens=6, batch_size=2)
        other = OtherCartridge(path=job["other"], task=WordTask(num_questions=3), name="theirs")
        composition = CompositionTest(task=task, others=[other], every_n_steps=9, max_new_tokens=4)
        callbacks += [evaluation, composition, CartridgeCheckpoint(every_n_steps=6)]
    if "lose" in job:
        callbacks.append(Lose(**job["lose"]))
    if "save_at" in job:
        callbacks.append(SaveAt(job["save_at"], folder / "at.ckpt"))
    module = new_module(
        job["model"],
        teacher_model=job.get("teacher"),
        objective=FullDistillation() if job.get("full") else TopKDistillation(),
        gradient_checkpointing=job.get("gradient_checkpointing", False),
        dtype=job.get("dtype", "float32"),
        init=init_of(*job["init"]) if "init" in job else None,
    )
    options = {"num_shards": job.get("num_shards", SHARDS), **job.get("data", {})}
    recorded = options.pop("recorded", None)
    new = new_data if recorded is None else partial(from_recording, path=recorded)
    data = new(job["corpus"], **options)
    trainer = new_trainer(
        folder,
        *callbacks,
        strategy=strategy_of(job["strategy"], job.get("strategy_options", {})),
        devices=world_size,
        max_steps=job["steps"],
        accumulate_grad_batches=job.get("accumulate", SHARDS // world_size),
        gradient_clip_val=job.get("gradient_clip_val"),
        use_distributed_sampler=False,
        enable_checkpointing=bool(job.get("callbacks")),
        limit_val_batches=job.get("limit_val_batches"),
    )
    with PeakMemory() as memory:
        trainer.fit(module, data, ckpt_path=job.get("resume"), weights_only=True)
    return {
        "peak_bytes": memory.peak_bytes,
        "losses": [sum(parts) for parts in watch.losses if parts],
        "norms": watch.norms,
        "batches": watch.batches,
        "step": trainer.global_step,
        "started": watch.started,
        "cartridge": as_lists(module),
        "evaluation": evaluation.results["cartridge"].as_dict() if evaluation else None,
        "calls": counted(data),
    }


def load(job: dict[str, Any]) -> dict[str, Any]:
    """A sharded model beside the whole one: hidden states, logits, gradients of a prefix, and what is held between."""
    from lit_cartridges.strategies.sharded_loading import load_sharded
    from lit_cartridges.strategies.sharded_weights import ShardedWeights

    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    config["zero_optimization"] |= {"memory_efficient_linear": False} | job.get("zero", {})
    model = load_sharded(job["model"], dtype="auto", device=torch.device("cpu"), config=config)
    whole = load_model(job["model"])
    weights, found = ShardedWeights(model), []
    ids = torch.arange(7, 29)[None]
    for one, saving in ((model, weights.saving()), (whole, nullcontext())):
        torch.manual_seed(0)
        text = one.config.get_text_config()
        size = (text.num_key_value_heads, 5, getattr(text, "head_dim", None) or text.hidden_size // 4)
        prefix = [torch.randn(size).requires_grad_() for _ in range(2 * text.num_hidden_layers)]
        half = text.num_hidden_layers
        reading = Reading(keys=prefix[:half], values=prefix[half:], position_ids=ids - 2)
        with reads_prefixes(one), saving:
            hidden = one.base_model(ids, position_ids=ids - 2, use_cache=False, reading=reading)
            logits = one.get_output_embeddings()(hidden.last_hidden_state)
        logits.square().mean().backward()
        found.append([logits.detach(), *(x.grad for x in prefix)])
        weights.release()
    held = sum(
        p.numel() + (p.ds_tensor.numel() if hasattr(p, "ds_tensor") else 0) for p in model.parameters()
    )
    weights.close()
    return {
        "held": held,
        "size": sum(p.numel() for p in whole.parameters()),
        "head": model.get_output_embeddings().weight.numel(),
        "difference": max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)),
        "scale": min(float(x.abs().max()) for x in found[1]),
    }


def counted(data: SelfStudyDataModule) -> dict[str, float]:
    """Conversations that this process has made."""
    return {"made": float(np.sum([data._examples.counts.get("conversations", 0)]))}  # type: ignore[attr-defined]


def init_deepspeed() -> None:
    import deepspeed

    from lit_cartridges.strategies.deepspeed_strategy import without_shared_memory_extension

    with without_shared_memory_extension():
        deepspeed.init_distributed("gloo")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for job in json.loads((folder / "jobs.json").read_text()):
        print(f"== {job['name']}", flush=True)
        if job.get("kind") == "load":
            init_deepspeed()
            result = load(job)
            (folder / job["name"]).mkdir(exist_ok=True)
        else:
            result = run(job, folder / job["name"], world_size)
        (folder / job["name"] / f"rank-{rank}.json").write_text(json.dumps(result))
        if torch.distributed.is_initialized():
            torch.distributed.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
