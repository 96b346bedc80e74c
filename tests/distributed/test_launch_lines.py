"""The launch lines for two processes on the CPU, as recipes and documentation print them, cut to two optimizer steps."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lit_cartridges import Cartridge
from tests.distributed.processes import ROOT

pytestmark = pytest.mark.distributed  # `make test-distributed`


def of_recipe() -> str:
    header = (ROOT / "recipes/deepspeed/zero3.yaml").read_text().split("# On two CPUs:")[1]
    return header.split("# Override:")[0].replace("\\\n#", "")


def of_page() -> str:
    lines = (ROOT / "docs/distributed.md").read_text().splitlines()
    return next(line for line in lines if "--trainer.strategy ddp" in line)


@pytest.mark.parametrize(("line", "starts"), [(of_recipe, "torchrun "), (of_page, "lit-cartridges fit ")])
def test_the_line_trains_with_two_processes(line, starts, tmp_path):
    command = line().strip()
    assert command.startswith(starts)
    options = ["--trainer.max_steps", "2", "--trainer.default_root_dir", str(tmp_path / "run")]
    done = subprocess.run(
        [*shlex.split(command), *options],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    # The stream is dealt into one shard per process.
    assert len(checkpoint["SelfStudyDataModule"]["places"]) == 2
    assert Cartridge.from_pretrained(str(tmp_path / "run" / "cartridge")).provenance.steps == 2
