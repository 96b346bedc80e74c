"""A server on one node teaches the trainers on the other; the job hands over its address, and is preempted in mid-run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from lit_cartridges.pocket import model_path
from tests.slurm.cluster import Cluster
from tests.slurm.runs import STEPS, Run, conversations, hold

pytestmark = pytest.mark.slurm
VLLM = os.environ.get("VLLM_PYTHON")


def test_a_disturbed_job_with_a_stand_in_server_trains_to_the_end(cluster, tmp_path):
    """The server is tests/slurm/stand_in_server.py with the tiny model; the environment's python starts it as vLLM's."""
    python = tmp_path / "teacher" / "bin" / "python"
    python.parent.mkdir(parents=True)
    server = Path(__file__).with_name("stand_in_server.py")
    python.write_text(
        f'#!/usr/bin/env bash\n[[ "$1 $2" == "-m vllm.entrypoints.openai.api_server" ]] || exit 2\n'
        f'exec {sys.executable} {server} "${{@:3}}"\n'
    )
    python.chmod(0o755)
    run = Run(tmp_path / "a", hold={0: [5, 0], 1: [8, 1]})
    teacher = {"TEACHER_VENV": str(python.parents[1]), "TEACHER_MODEL": str(run.folder / "model")}
    train(cluster, run, tasks=2, dies=True, **teacher)


@pytest.mark.skipif(VLLM is None, reason="make install-vllm has not been called")
def test_a_preempted_job_with_vllm_trains_to_the_end(cluster, tmp_path):
    """The real server with the bundled model."""
    corpus = {
        "class_path": "lit_cartridges.pocket.corpus.WorldCorpus",
        "init_args": {"seed": 7, "num_tokens": 300},
    }
    study = {
        "corpus": corpus,
        "source": {
            "class_path": "SelfStudy",
            "init_args": {
                "seed_prompts": "lit_cartridges.pocket.SEED_PROMPTS",
                "min_chunk_tokens": 96,
                "max_chunk_tokens": 128,
            },
        },
        "tokens_per_batch": 128,
    }
    run = Run(tmp_path / "a", hold={0: [5, 0]}, model={"model": str(model_path())}, data=study)
    train(
        cluster,
        run,
        tasks=1,
        dies=False,
        TEACHER_VENV=str(Path(VLLM or "").parents[1]),
        TEACHER_MODEL=str(model_path()),
        TEACHER_OPTIONS="--dtype float32 --enforce-eager",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_NO_USAGE_STATS="1",
    )


def train(cluster: Cluster, run: Run, *, tasks: int, dies: bool, **teacher: str) -> None:
    """To the end, through a preemption, and the death of a trainer where ``dies`` says so."""
    options = ["--nodes=1", f"--ntasks-per-node={tasks}", ":", "--nodes=1"]
    job = run.submit(cluster, "train_with_teacher.sbatch", options=options, **teacher)
    hold(cluster, run, job, attempt=0)
    cluster.call("scontrol", "requeue", job)
    if dies:
        hold(cluster, run, job, attempt=1)
        os.kill(run.held_process(1), signal.SIGKILL)
    assert cluster.wait_for(job) == "COMPLETED", run.said()
    ends = {1: [7, 8], 2: [9, 10]} if dies else {1: [7, 8, 9, 10]}
    assert run.attempts() == {0: [1, 2, 3, 4, 5, 6], **ends}
    for rank in range(tasks):
        assert list(run.curve(rank)) == list(range(1, STEPS + 1))
    assert conversations(run)
    logs = {log.name.split("-", 1)[1] for log in run.run.glob("slurm/*.log")}
    assert logs == {f"attempt{attempt}-{part}0.log" for attempt in (0, *ends) for part in ("node", "teacher")}
    asked = "".join(log.read_text() for log in run.run.glob("slurm/*teacher0.log"))
    assert asked.count("POST /v1/completions") > 50
