"""A folder takes one training at a time, and no lock outlives its process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import threading
import time

import pytest

from lit_cartridges.runs.run_folder import RunFolder, RunFolderError
from tests.faults.figures import Figures
from tests.faults.forked import forked
from tests.faults.run_files import check_readable, check_same_end


@pytest.mark.faults
def test_a_second_run_in_the_same_folder(start, undisturbed, tmp_path, long):
    figures, folder = Figures("a second run in the same folder", long=long), tmp_path / "run"
    first = start(folder, forked=not long)
    assert first.until((folder / "checkpoints" / "last.ckpt").exists), first.told()
    first.send(signal.SIGSTOP)
    second = start(folder, forked=not long)
    assert second.wait() == 2, second.told()
    assert f"{str(folder)!r} is in use by another training (process {first.pid} on" in second.told()
    figures.moments["a second fit"] += 1
    figures.outcomes["refused with status 2"] += 1
    for name in ("validate", "test", "predict") if long else ("validate",):
        beside = start(folder, name=name, forked=not long)
        assert beside.wait() == 0, beside.told()
        figures.moments[f"{name} beside it"] += 1
        figures.outcomes["went on beside it"] += 1
    first.send(signal.SIGKILL)
    assert first.wait() == 128 + signal.SIGKILL
    third = start(folder, forked=not long)
    assert third.wait() == 0, third.told()
    check_same_end(folder, undisturbed)
    figures.moments["a fit after SIGKILL"] += 1
    figures.outcomes["ended on the same bits"] += 1
    figures.save("8-second-run")


@pytest.mark.faults
@pytest.mark.slow
def test_two_processes_hold_it_together(start, tmp_path):
    """Lightning's launcher starts the second process with the same command."""
    figures, folder = Figures("a second run beside one of two processes (DDP)", long=True), tmp_path / "run"
    settings = {"trainer.devices": 2, "trainer.strategy": "ddp"}
    first = start(folder, forked=False, settings=settings)
    assert first.until((folder / "checkpoints" / "last.ckpt").exists), first.told()
    first.send(signal.SIGSTOP)  # the other process waits for this one
    second = start(folder, forked=False, settings=settings)
    assert second.wait() == 2, second.told()
    assert f"in use by another training (process {first.pid} on" in second.told()
    figures.moments["a second fit"] += 1
    figures.outcomes["refused with status 2"] += 1
    first.send(signal.SIGKILL)
    first.wait()
    check_readable(folder)
    third = start(folder, forked=False, settings=settings)
    assert third.wait() == 0, third.told()
    check_readable(folder)
    figures.moments["a fit after SIGKILL of rank 0"] += 1
    figures.outcomes["went on to its end"] += 1
    figures.save("9-second-run-ddp")


def holder(folder, monkeypatch, *, host: str) -> tuple[int, int]:
    """A process that holds the folder until it is killed, and says to be on ``host``; and a child of its."""
    monkeypatch.setattr(socket, "gethostname", lambda: host)

    def hold() -> int:
        held = RunFolder(folder)  # its end would end the lock
        held.take()
        if os.fork() == 0:  # what it inherited is closed by now
            (folder / "child.new").write_text(str(os.getpid()))
            (folder / "child.new").rename(folder / "child")
        while True:
            signal.pause()

    pid = forked(hold)
    monkeypatch.undo()
    while not (folder / "child").exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the holder has ended"
        time.sleep(0.01)
    return pid, int((folder / "child").read_text())


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def test_a_child_that_outlives_a_killed_run_keeps_nobody_out(tmp_path, monkeypatch):
    """A worker of a data loader, for instance."""
    pid, child = holder(tmp_path, monkeypatch, host=socket.gethostname())
    try:
        with pytest.raises(RunFolderError, match=f"process {pid} on"):
            RunFolder(tmp_path).take()
        kill(pid)
        folder = RunFolder(tmp_path)
        folder.take()
        folder.release()
    finally:
        kill(pid)
        kill(child)


def test_a_holder_on_another_machine_is_waited_for(tmp_path, monkeypatch):
    """It may have died with its machine, and a network file system's server keeps its lock for a while."""
    pid, child = holder(tmp_path, monkeypatch, host="elsewhere")
    kill(child)
    try:
        with pytest.raises(RunFolderError, match=f"process {pid} on elsewhere"):
            RunFolder(tmp_path, patience_s=0).take()
    finally:
        threading.Timer(0.5, kill, [pid]).start()
    RunFolder(tmp_path, patience_s=60).take()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog, number):
    def unsupported(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    RunFolder(tmp_path).take()
    assert "no locks there" in caplog.text
