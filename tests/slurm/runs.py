"""A tiny run for the jobs, and what it leaves behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from lit_cartridges import Cartridge
from lit_cartridges.conversations.recording import Recording
from tests.slurm.cluster import Cluster
from tests.slurm.watch import read_losses
from tests.tiny_run import SEED_PROMPTS, same_tensors, save_corpus, save_model

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "slurm"
STEPS = 10
CHECKPOINT_EVERY = 2


class Run:
    """A run's folder and recipe.

    Args:
        folder: everything of the run; `self.folder / "run"` is the job's RUN.
        settings: laid over the recipe, by section.
        hold: see `Watch`.
    """

    def __init__(self, folder: Path, *, hold: dict[int, list[int]] | None = None, **settings: Any) -> None:
        folder.mkdir()
        self.folder, self.run = folder, folder / "run"
        watch = {"class_path": "tests.slurm.watch.Watch", "init_args": {"folder": str(folder), "hold": hold}}
        recipe: dict[str, Any] = {
            "trainer": {
                "accelerator": "cpu",
                "max_steps": STEPS,
                "log_every_n_steps": 1,
                "enable_progress_bar": False,
                "callbacks": [watch],
            },
            "checkpoint": {"every_n_steps": CHECKPOINT_EVERY},
            "model": {
                "model": save_model(folder / "model"),
                "num_tokens": 8,
                "learning_rate": 0.05,
                "warmup_steps": 0,
            },
            "data": {
                "corpus": save_corpus(folder / "corpus.txt"),
                "source": {
                    "class_path": "SelfStudy",
                    "init_args": {
                        "min_chunk_tokens": 20,
                        "max_chunk_tokens": 40,
                        "seed_prompts": SEED_PROMPTS,
                        "conversations_per_group": 4,
                        "question_temperature": 1.0,
                        "question_max_tokens": 5,
                        "answer_max_tokens": 8,
                        "top_k": 4,
                    },
                },
                "groups_per_round": 2,
                "tokens_per_batch": 40,
            },
        }
        for section, values in settings.items():
            recipe[section] |= values
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(recipe))

    def submit(
        self,
        cluster: Cluster,
        file: str,
        *arguments: str,
        options: Sequence[str] = (),
        **environment: str,
    ) -> str:
        """``sbatch [options] recipes/slurm/FILE --config RECIPE [arguments]``; the job's number."""
        paths = {"RUN": str(self.run), "VENV": str(Path(sys.executable).parents[1])}
        threads = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
        python_path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        return cluster.submit(
            *options,
            str(RECIPES / file),
            "--config",
            str(self.recipe),
            *arguments,
            env={**threads, **paths, "PYTHONPATH": python_path, **environment},
            cwd=self.folder,
        )

    def held(self, attempt: int) -> bool:
        """Whether the attempt waits at its step."""
        return (self.folder / f"held-{attempt}").exists()

    def held_process(self, attempt: int) -> int:
        return int((self.folder / f"held-{attempt}").read_text())

    def curve(self, rank: int) -> dict[int, float]:
        """Step -> loss; a step that several attempts took must have had the same loss in each, to the last bit."""
        curve: dict[int, float] = {}
        for line in read_losses(self.folder, rank):
            assert curve.setdefault(line["step"], line["loss"]) == line["loss"], line
        return curve

    def attempts(self) -> dict[int, list[int]]:
        """Attempt -> the steps that it took."""
        attempts: dict[int, list[int]] = {}
        for line in read_losses(self.folder, 0):
            attempts.setdefault(line["attempt"], []).append(line["step"])
        return attempts

    def said(self) -> str:
        """All logs, for the message of a failed assertion."""
        logs = [*self.folder.glob("*.log"), *self.run.glob("slurm/*.log")]
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in sorted(logs))


def hold(cluster: Cluster, run: Run, job: str, *, attempt: int) -> None:
    """Wait until the attempt waits at its step."""
    state = cluster.wait_for(job, unless=lambda: run.held(attempt))
    assert run.held(attempt), f"{state}: {run.said()}"


def check_same_end(run: Run, undisturbed: Run, *, tasks: int = 2) -> None:
    """The same losses in every task, cartridge, optimizer and conversations, to the last bit."""
    for rank in range(tasks):
        assert run.curve(rank) == undisturbed.curve(rank)
    ours, theirs = (Cartridge.from_pretrained(r.run / "cartridge") for r in (run, undisturbed))
    assert same_tensors(dict(ours.state_dict()), dict(theirs.state_dict()))
    moments = [
        torch.load(r.run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
        for r in (run, undisturbed)
    ]
    assert all(same_tensors(moments[0][name], moments[1][name]) for name in moments[1])
    assert conversations(run) == conversations(undisturbed)


def conversations(run: Run) -> list[tuple[int, int, list[str]]]:
    """(group, index, texts) of every recorded conversation, none of them twice."""
    recording = Recording(run.run / "recording")
    found = [
        (group, int(c.metadata["index"]), [m.content for m in c.messages])
        for group in recording.groups()
        for c in recording.read_group(group)
    ]
    keys = [(group, index) for group, index, _ in found]
    assert len(set(keys)) == len(keys) > 0
    return found
