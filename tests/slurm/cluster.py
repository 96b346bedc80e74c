"""A real SLURM cluster of two nodes on this machine: its own munged, one slurmctld, two slurmd, all in a folder of its own.

Nothing outside the folder is touched, and no configuration of the machine is read: every program is told its files. The
daemons are children of this process and end with the ``with`` block.
"""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NODES = ("n0", "n1")
# Debian installs daemons where not every PATH looks.
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Cluster:
    """How to talk to it.

    Attributes:
        folder: configuration, state and the daemons' logs.
    """

    folder: Path
    _requeued_s: dict[str, float] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """This process's, less what a job of another cluster may have put there."""
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM", "SBATCH", "SRUN"))
        }
        return {**own, "PATH": _PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
        """A command of SLURM; its output.

        Raises:
            RuntimeError: it failed; with what it said.
        """
        done = subprocess.run(
            command, env={**self.environment, **(env or {})}, cwd=cwd, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def submit(self, *arguments: str, env: Mapping[str, str], cwd: Path) -> str:
        """``sbatch``; the job's number."""
        return self.call("sbatch", "--parsable", *arguments, env=env, cwd=cwd)

    def state(self, job: str) -> str:
        """JobState of each part of the job, such as "RUNNING" or "COMPLETED,RUNNING"."""
        lines = self.call("scontrol", "show", "job", "--oneliner", job).splitlines()
        return ",".join(
            sorted({line.split("JobState=")[1].split()[0] for line in lines if "JobState=" in line})
        )

    def preempt(self) -> None:
        """A job of a partition that goes first takes a GPU of each node, for a moment."""
        urgent = ["--partition=urgent", "--nodes=2", "--gpus-per-node=1", "--output=/dev/null"]
        self.call("sbatch", "--wait", *urgent, "--wrap=true")

    def start_requeued(self, job: str) -> None:
        """SLURM lets a requeued job wait for two minutes; a test waits no longer than slurmd needs to forget the last start."""
        for line in self.call("scontrol", "show", "job", "--oneliner", job).splitlines():
            if "JobState=PENDING Reason=BeginTime" in line:
                part, restarts = (line.split(f"{name}=")[1].split()[0] for name in ("JobId", "Restarts"))
                seen_s = self._requeued_s.setdefault(f"{part}, {restarts}", time.monotonic())
                if time.monotonic() > seen_s + 2:
                    self.call("scontrol", "update", f"JobId={part}", "StartTime=now")

    def wait_for(self, job: str, *, limit_s: float = 420, unless: Callable[[], bool] = lambda: False) -> str:
        """Wait until no part of the job will run again, or ``unless`` it holds; the state."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            state = self.state(job)
            if unless() or not {"PENDING", "RUNNING", "COMPLETING"} & set(state.split(",")):
                return state
            self.start_requeued(job)
            time.sleep(0.5)
        raise AssertionError(
            f"job {job} is {self.state(job)} after {limit_s} s: {self.call('scontrol', 'show', 'job', job)}"
        )


@contextmanager
def slurm_cluster(*, processors: int = 8) -> Iterator[Cluster]:
    """Start it; jobs that are still there at the end are cancelled.

    Args:
        processors: that each node claims to have; the machine's own number may be smaller.
    """
    with ExitStack() as stack:
        # A short path, since a socket's may have 107 characters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp")))
        folder.chmod(0o755)
        cluster = Cluster(folder)
        _configure(folder, processors)
        _start(stack, cluster, "munged", *_munge_options(folder))
        _until(lambda: (folder / "munge.socket").exists(), cluster, "munged")
        _start(stack, cluster, "slurmctld", "-D")
        for node in NODES:
            _start(stack, cluster, "slurmd", "-D", "-N", node, log=node)
        _until(lambda: _node_states(cluster) == ["idle"] * len(NODES), cluster, "slurmctld", *NODES)
        try:
            yield cluster
        finally:
            _cancel_all(cluster)


def _configure(folder: Path, processors: int) -> None:
    host = socket.gethostname().split(".")[0]
    ports = _free_ports(1 + len(NODES))
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={processors} RealMemory=4000 Gres=gpu:1"
        for node, port in zip(NODES, ports[1:], strict=True)
    )
    # GPUs in name only: jobs ask for them as on a real cluster, and compute on the CPU.
    (folder / "gres.conf").write_text("AutoDetect=off\nName=gpu File=/dev/null\n")
    (folder / "slurm.conf").write_text(f"""\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={getpass.getuser()}
SlurmdUser={getpass.getuser()}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_min_interval=100000
# Two cores serve all that the nodes do, so what takes a moment elsewhere may take a while.
KillWait=90
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MessageTimeout=60
ReturnToService=2
{nodes}
PartitionName=main Nodes={",".join(NODES)} Default=YES MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=urgent Nodes={",".join(NODES)} MaxTime=INFINITE PriorityTier=2 State=UP
""")


def _munge_options(folder: Path) -> list[str]:
    return [
        "--foreground",
        "--force",  # run by root, and files in a folder below /tmp
        f"--socket={folder}/munge.socket",
        f"--key-file={folder}/munge.key",
        f"--pid-file={folder}/munged.pid",
        f"--seed-file={folder}/munge.seed",
    ]


def _start(stack: ExitStack, cluster: Cluster, *command: str, log: str | None = None) -> None:
    output = stack.enter_context((cluster.folder / f"{log or command[0]}.log").open("w"))
    process = subprocess.Popen(
        command, env=cluster.environment, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    stack.callback(_end, process)


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until(ready: Callable[[], bool], cluster: Cluster, *logs: str, limit_s: float = 120) -> None:
    end = time.monotonic() + limit_s
    while not ready():
        if time.monotonic() > end:
            said = "\n".join((cluster.folder / f"{name}.log").read_text()[-2000:] for name in logs)
            raise RuntimeError(f"the cluster did not start within {limit_s} s:\n{said}")
        time.sleep(0.2)


def _node_states(cluster: Cluster) -> list[str]:
    try:
        return cluster.call("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").split()
    except RuntimeError:
        return []


def _cancel_all(cluster: Cluster) -> None:
    """So that no step outlives the daemons."""
    cluster.call("scancel", "--signal=KILL", "--full", f"--user={getpass.getuser()}")
    cluster.call("scancel", f"--user={getpass.getuser()}")
    _until(lambda: not cluster.call("squeue", "--noheader"), cluster, "slurmctld")


def _free_ports(count: int) -> Sequence[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
