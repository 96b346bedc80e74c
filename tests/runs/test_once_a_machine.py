"""Of several processes on a machine one makes something for all; an error of its reaches all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lit_cartridges.runs.once_a_machine import once_a_machine

ROOT = Path(__file__).parents[2]
PROCESS = """
import json, sys
from torch import distributed
from lit_cartridges.runs import once_a_machine as once
folder, rank, machine, fails = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "fails"
if machine:
    once._machine = lambda: machine
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
calls = []
def make():
    calls.append(rank)
    if fails and rank == 0:
        raise ValueError("no memory")
    return f"made by {rank}"
try:
    told = once.once_a_machine(make)
except Exception as error:
    told = f"{type(error).__name__}: {error}"
print(json.dumps([calls, told]))
distributed.barrier()
"""


def in_three_processes(folder, machines=("", "", ""), fails=""):
    folder.mkdir()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder), str(rank), machine, fails],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, machine in enumerate(machines)
    ]
    return [json.loads(run.communicate(timeout=120)[0].splitlines()[-1]) for run in runs]


def test_alone_it_is_made_and_errors_are_their_own():
    assert once_a_machine(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        once_a_machine(lambda: 1 // 0)


def test_the_first_process_of_each_machine_makes_it(tmp_path):
    assert in_three_processes(tmp_path / "one") == [[[0], "made by 0"], [[], "made by 0"], [[], "made by 0"]]
    assert in_three_processes(tmp_path / "two", ("a", "b", "b")) == [
        [[0], "made by 0"],
        [[1], "made by 1"],
        [[], "made by 1"],
    ]
    failed = in_three_processes(tmp_path / "fails", ("a", "b", "b"), "fails")
    told = "CartridgesError: process 0 of this run: no memory"
    assert failed == [[[0], "ValueError: no memory"], [[1], told], [[], told]]
