"""ZeRO-3 across both nodes: left alone, and disturbed in every way that a cluster knows."""

from __future__ import annotations

import os
import signal

import pytest

from tests.slurm.conftest import ZERO3
from tests.slurm.runs import CHECKPOINT_EVERY, STEPS, Run, check_same_end, hold

pytestmark = pytest.mark.slurm


def test_both_nodes_train_to_the_end(undisturbed):
    logs = sorted(log.name for log in undisturbed.run.glob("slurm/*.log"))
    assert [log.split("-", 1)[1] for log in logs] == ["attempt0-node0.log", "attempt0-node1.log"]
    for rank in (0, 1):
        assert list(undisturbed.curve(rank)) == list(range(1, STEPS + 1))
    assert undisturbed.curve(0) != undisturbed.curve(1)  # each has its own conversations


def test_requeued_while_it_starts_and_in_mid_run_and_a_node_fails(cluster, undisturbed, tmp_path):
    """SIGTERM to all tasks, SIGKILL after KillWait, and SLURM itself starts the job again."""
    run = Run(tmp_path / "a", hold={1: [0, 0], 2: [5, 1]})
    job = run.submit(cluster, "train.sbatch", *ZERO3)
    cluster.wait_for(job, unless=lambda: any(run.run.glob("slurm/*-attempt0-*.log")))
    cluster.call("scontrol", "requeue", job)
    hold(cluster, run, job, attempt=1)
    cluster.call("scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=test")  # slurmd brings it back
    hold(cluster, run, job, attempt=2)
    cluster.call("scontrol", "requeue", job)
    assert cluster.wait_for(job) == "COMPLETED", run.said()
    # Told before it trains, it is gone at once; told at a step, it takes that step, saves and stops.
    assert run.attempts() == {1: [1], 2: [2, 3, 4, 5, 6], 3: [7, 8, 9, 10]}
    assert "Node failure on n1" in run.said()
    check_same_end(run, undisturbed)


def test_the_time_runs_out_one_task_is_told_to_stop_and_one_dies(cluster, undisturbed, tmp_path):
    """Each ends the attempt for all tasks, and the job's own script starts the job again."""
    run = Run(tmp_path / "a", hold={0: [1, 0], 1: [3, 1], 2: [7, 1]})
    job = run.submit(cluster, "train.sbatch", *ZERO3)
    hold(cluster, run, job, attempt=0)
    # As long before the end as --signal says: SLURM looks every half minute.
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=5")
    cluster.wait_for(job, unless=lambda: cluster.state(job) == "PENDING")
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    for attempt, number in {1: signal.SIGTERM, 2: signal.SIGKILL}.items():
        hold(cluster, run, job, attempt=attempt)
        os.kill(run.held_process(attempt), number)
    assert cluster.wait_for(job) == "COMPLETED", run.said()
    attempts = run.attempts()
    assert attempts[0] == [1, 2] and attempts[1] == [3, 4]
    # The dead task's step is lost, and what came since the last checkpoint is done again.
    assert attempts[2][-1] == 7 and attempts[3][0] == 7 - 7 % CHECKPOINT_EVERY + 1
    check_same_end(run, undisturbed)
