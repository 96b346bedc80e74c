"""The training in a container: Charliecloud, which needs no rights; an image that has this machine's programs.

A job that goes first preempts it.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.slurm.runs import STEPS, Run, hold
from tests.tiny_run import save_corpus

pytestmark = pytest.mark.slurm
# The kernel's, and those that ch-run takes from the host by itself.
NOT_BOUND = {"dev", "proc", "run", "sys", "tmp"}


@pytest.mark.skipif(shutil.which("ch-run") is None, reason="Charliecloud's ch-run is not installed")
def test_a_preempted_run_in_a_container_trains_to_the_end(cluster, tmp_path):
    image = tmp_path / "image"
    inside = image / "only_in_the_image"
    inside.mkdir(parents=True)
    binds = []
    for path in Path("/").iterdir():
        if path.is_symlink():
            (image / path.name).symlink_to(path.readlink())
        elif path.is_dir():
            (image / path.name).mkdir()
            if path.name not in NOT_BOUND and any(path.iterdir()):
                binds.append(f"--bind={path}:{path}")
    for name in ("group", "hosts", "passwd", "resolv.conf"):  # where ch-run lays the host's
        (image / "etc" / name).touch()
    save_corpus(inside / "corpus.txt")
    run = Run(tmp_path / "a", hold={0: [5, 0]}, data={"corpus": "/only_in_the_image/corpus.txt"})
    container = {
        "CONTAINER": f"ch-run {' '.join(binds)} {image} --",
        "USER": "tests",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    job = run.submit(cluster, "train.sbatch", options=["--nodes=1"], VENV="nowhere", **container)
    hold(cluster, run, job, attempt=0)
    cluster.preempt()
    assert cluster.wait_for(job) == "COMPLETED", run.said()
    assert run.attempts() == {0: [1, 2, 3, 4, 5, 6], 1: [7, 8, 9, 10]}
    assert list(run.curve(0)) == list(range(1, STEPS + 1))
