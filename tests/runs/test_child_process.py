"""A program beside this one never outlives it: not by stop, an error, Ctrl-C, SIGTERM nor SIGKILL, and nor do its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_cartridges.runs.child_process import ChildProcess

ROOT = Path(__file__).parents[2]
# Starts a child of its own, says both their ids, and waits. With "stubborn" neither ends when it is asked to.
FAMILY = """
import os, signal, subprocess, sys, time
wait = "import signal, sys, time\\nif 'stubborn' in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)\\ntime.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", wait, *sys.argv[1:]])
if "stubborn" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(0.3)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
# A run that has started such a program, as a user's.
OWNER = """
import sys, time
from pathlib import Path
from lit_cartridges.runs.child_process import ChildProcess
child = ChildProcess([sys.executable, "-c", sys.argv[2]], log=Path(sys.argv[1]), grace_s=2.0)
print("started", flush=True)
{then}
"""


def family_of(log, limit_s=20.0):
    """The ids of the program and its child, once it has said them."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if log.exists() and log.read_text().endswith("\n"):
            return [int(pid) for pid in log.read_text().split()]
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def all_gone(pids, limit_s=15.0):
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("how", ["stop", "kill", "drop"])
@pytest.mark.parametrize("manner", ["plain", "stubborn"])
def test_it_ends_with_its_children(tmp_path, how, manner):
    log = tmp_path / "log"
    child = ChildProcess([sys.executable, "-c", FAMILY, manner], log=log, grace_s=0.5)
    pids = family_of(log)
    assert len(pids) == 2 and all(map(alive, pids)) and child.exit_status is None
    watch = child.pid
    if how == "drop":
        del child
    else:
        getattr(child, how)()
        assert child.exit_status is not None
        child.stop()
    assert not any(map(alive, pids)) and not alive(watch), "at once: whoever ends it waits for that"


@pytest.mark.parametrize(
    ("then", "number"),
    [
        ("time.sleep(600)", signal.SIGKILL),
        ("time.sleep(600)", signal.SIGTERM),
        ("time.sleep(600)", signal.SIGINT),
        ("raise RuntimeError('an error of the run')", None),
        ("sys.exit(0)", None),
        ("import os; os._exit(1)", None),
    ],
    ids=["SIGKILL", "SIGTERM", "Ctrl-C", "error", "end", "hard exit"],
)
def test_it_ends_however_the_run_does(tmp_path, then, number):
    log = tmp_path / "log"
    command = [sys.executable, "-c", OWNER.format(then=then), str(log), FAMILY]
    if number is None:  # it must have begun before the run ends
        command[2] = command[2].replace('print("started"', 'time.sleep(1.5); print("started"')
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert run.stdout is not None and run.stdout.readline() == "started\n"
    pids = family_of(log)
    if number is not None:
        assert all(map(alive, pids))
        run.send_signal(number)
    run.wait(20)
    assert all_gone(pids)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing ends it when its watch is killed too")
def test_it_ends_when_its_watch_is_killed(tmp_path):
    log = tmp_path / "log"
    child = ChildProcess([sys.executable, "-c", FAMILY], log=log)
    program, _ = family_of(log)
    os.kill(child.pid, signal.SIGKILL)
    assert all_gone([program])
    os.kill(family_of(log)[1], signal.SIGKILL)


def test_ctrl_c_in_a_terminal_does_not_reach_it(tmp_path):
    log = tmp_path / "log"
    child = ChildProcess([sys.executable, "-c", FAMILY], log=log)
    pids = family_of(log)
    assert {os.getsid(pid) for pid in pids} != {os.getsid(0)}
    assert os.getpgid(0) not in {os.getpgid(pid) for pid in pids}
    child.stop()


def test_what_is_left_of_a_program_that_ended_ends_too(tmp_path):
    log = tmp_path / "log"
    child = ChildProcess(
        [sys.executable, "-c", FAMILY.replace("time.sleep(600)\n", "sys.exit(7)\n")], log=log
    )
    pids = family_of(log)
    assert all_gone(pids) and all_gone([child.pid])
    assert child.exit_status == 7


def test_its_environment_and_what_it_said(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setenv("DROPPED", "dropped")
    say = "import os; print(*(os.environ.get(n) for n in ('LOCAL_RANK', 'KEPT', 'DROPPED', 'ADDED')), os.getcwd(), '\\x1b[2J')"
    child = ChildProcess(
        [sys.executable, "-c", say],
        log=tmp_path / "log",
        environment={"DROPPED": None, "ADDED": "added"},
        folder=tmp_path,
    )
    assert all_gone([child.pid]) and child.exit_status == 0
    assert child.tail() == f"None kept None added {tmp_path} \\x1b[2J"
    assert "added" not in os.environ.values()
