"""Jobs that must not be started again, or not for ever."""

from __future__ import annotations

import pytest

from tests.slurm.runs import Run, hold

pytestmark = pytest.mark.slurm


def test_a_run_that_fails_by_itself_ends_after_max_restarts(cluster, tmp_path):
    run = Run(tmp_path / "a", data={"corpus": str(tmp_path / "missing.txt")})
    job = run.submit(cluster, "train.sbatch", MAX_RESTARTS="1")
    assert cluster.wait_for(job) == "FAILED"
    logs = [log.name.split("-", 1)[1] for log in sorted(run.run.glob("slurm/*.log"))]
    assert logs == [f"attempt{attempt}-node{node}.log" for attempt in (0, 1) for node in (0, 1)]
    assert "missing.txt" in run.said()
    assert "MAX_RESTARTS=1 restarts left no new checkpoint" in run.said()


def test_a_cancelled_job_saves_and_stays_cancelled(cluster, tmp_path):
    run = Run(tmp_path / "a", hold={0: [2, 0]})
    job = run.submit(cluster, "train.sbatch", options=["--nodes=1"])
    hold(cluster, run, job, attempt=0)
    cluster.call("scancel", job)
    assert cluster.wait_for(job) == "CANCELLED", run.said()
    assert run.attempts() == {0: [1, 2, 3]}
    assert (run.run / "checkpoints" / "last.ckpt").exists()
    assert "starting again" not in run.said()


@pytest.mark.parametrize(
    "file, environment, sentence",
    [
        ("train.sbatch", {"RUN": ""}, "RUN is not set"),
        ("train.sbatch", {"VENV": "nowhere"}, "VENV=nowhere has no bin/python"),
        ("train.sbatch", {"MAX_RESTARTS": "many"}, "MAX_RESTARTS=many must be a whole number"),
        ("train_with_teacher.sbatch", {"TEACHER_MODEL": ""}, "TEACHER_MODEL is not set"),
        ("train_with_teacher.sbatch", {"TEACHER_MODEL": "m", "TEACHER_VENV": "no"}, "TEACHER_VENV=no has no bin/python"),
        ("sweep.sbatch", {"INITS": "FirstTokens", "SIZES": "4 6 8"}, "submit with --array=0-2"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_named_and_ends_the_job(cluster, tmp_path, file, environment, sentence):
    run = Run(tmp_path / "a")
    job = run.submit(cluster, file, **environment)
    assert "FAILED" in cluster.wait_for(job)
    assert sentence in run.said()
    assert not run.run.exists()
