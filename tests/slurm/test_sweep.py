"""A job array over init strategies and sizes, one task of which is preempted."""

from __future__ import annotations

import pytest

from lit_cartridges import Cartridge
from tests.slurm.runs import Run

pytestmark = pytest.mark.slurm


def test_every_strategy_and_size_is_trained(cluster, tmp_path):
    run = Run(tmp_path / "a", trainer={"max_steps": 3})
    sweep = {"INITS": "FirstTokens RandomVectors", "SIZES": "6 8"}
    job = run.submit(cluster, "sweep.sbatch", **sweep)
    second = run.run / "FirstTokens-8"
    cluster.wait_for(job, unless=lambda: any(second.glob("slurm/*-attempt0-*.log")))
    cluster.call("scontrol", "requeue", f"{job}_1")
    assert cluster.wait_for(job) == "COMPLETED", run.said()
    for init in ("FirstTokens", "RandomVectors"):
        for size in (6, 8):
            cartridge = Cartridge.from_pretrained(run.run / f"{init}-{size}" / "cartridge")
            assert cartridge.num_tokens == size and cartridge.provenance.steps == 3
    assert {log.name.split("-", 1)[1] for log in second.glob("slurm/*.log")} == {
        f"attempt{attempt}-node0.log" for attempt in (0, 1)
    }
