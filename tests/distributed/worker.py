"""One rank of a training: reads ``FOLDER/jobs.json`` and writes ``FOLDER/NAME/rank-R.json`` for every job."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.callbacks import CartridgeCheckpoint, CompositionTest, LongContextEval
from lit_cartridges.callbacks.composition_test import OtherCartridge
from lit_cartridges.data import SelfStudyDataModule
from lit_cartridges.losses import FullDistillation, TopKDistillation
from lit_cartridges.models import load_model
from tests.evals.words import WordTask
from tests.tiny_run import SaveAt, new_data, new_module, new_trainer

SHARDS = 2


class Watch(L.Callback):
    """Per micro-batch its loss and a fingerprint of its tokens; how many calls of the model were made."""

    def __init__(self) -> None:
        self.losses: list[list[float]] = [[]]
        self.batches: list[str] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning divides by the micro-batches of a step, unless DeepSpeed does that later.
        divided = trainer.strategy.handles_gradient_accumulation
        parts = trainer.accumulate_grad_batches if divided else 1
        self.losses[-1].append(float(outputs["loss"]) / parts)
        self.batches.append(hashlib.sha256(batch.input_ids.numpy().tobytes()).hexdigest()[:12])
        if batch.stream_state is not None:
            self.losses.append([])


def strategy_of(name: str) -> Any:
    if not name.startswith("zero"):
        return name
    from lit_cartridges.strategies import CartridgeDeepSpeedStrategy

    return CartridgeDeepSpeedStrategy(stage=int(name[-1]))


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
    if "save_at" in job:
        callbacks.append(SaveAt(job["save_at"], folder / "at.ckpt"))
    module = new_module(
        job["model"],
        teacher_model=job.get("teacher"),
        objective=FullDistillation() if job.get("full") else TopKDistillation(),
        gradient_checkpointing=job.get("gradient_checkpointing", False),
        dtype=job.get("dtype", "float32"),
    )
    data = new_data(job["corpus"], num_shards=job.get("num_shards", SHARDS), **job.get("data", {}))
    trainer = new_trainer(
        folder,
        *callbacks,
        strategy=strategy_of(job["strategy"]),
        devices=world_size,
        max_steps=job["steps"],
        accumulate_grad_batches=job.get("accumulate", SHARDS // world_size),
        gradient_clip_val=job.get("gradient_clip_val"),
        use_distributed_sampler=False,
        enable_checkpointing=bool(job.get("callbacks")),
    )
    trainer.fit(module, data, ckpt_path=job.get("resume"), weights_only=True)
    return {
        "losses": [sum(parts) for parts in watch.losses if parts],
        "batches": watch.batches,
        "step": trainer.global_step,
        "cartridge": {name: x.tolist() for name, x in module.state_dict().items()},
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
    return {"made": float(np.sum([data._source.counts.get("conversations", 0)]))}  # type: ignore[attr-defined]


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
