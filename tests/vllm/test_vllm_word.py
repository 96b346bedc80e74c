"""`VLLM`: a run starts vLLM itself, records what the local teacher does, and takes it along when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.vllm.test_vllm_teacher import TOLERANCE_NATS, finish, recorded, rows

pytestmark = pytest.mark.vllm
ROOT = Path(__file__).parents[2]
ENGINE = "vllm.entrypoints.openai.api_server"


def fit(folder: Path, mark: str, *options: str) -> subprocess.Popen[str]:
    """As a user would, greedy, so that the recording is decided by the model alone."""
    command = [sys.executable, "-m", "lit_cartridges.cli", "fit", "--config", "recipes/pocket.yaml"]
    command += ["--trainer.default_root_dir", str(folder), "--trainer.callbacks", "[]", *options]
    command += ["--data.source.question_temperature", "0", "--data.source.conversations_per_group", "16"]
    command += ["--data.groups_per_round", "2", "--data.uses", "1", "--trainer.log_every_n_steps", "1"]
    own = {"LIT_CARTRIDGES_VLLM": os.environ["VLLM_PYTHON"], "VLLM_CPU_KVCACHE_SPACE": "1", "MARK": mark}
    with folder.with_suffix(".log").open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | own, stdout=log, stderr=log, text=True)


def marked(mark: str) -> dict[int, str]:
    """The processes that a run has started, itself included, with their command lines."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def none_left(mark: str, limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.2)
    return not marked(mark)


def until(holds, run, limit_s: float = 600.0) -> None:
    end = time.monotonic() + limit_s
    while not holds() and run.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    assert holds() and run.poll() is None


def test_a_run_starts_it_and_records_what_the_local_teacher_does(tmp_path, figure):
    local, served, mark = tmp_path / "local", tmp_path / "served", uuid.uuid4().hex
    finish(fit(local, "none", "--trainer.max_steps", "3"), local)
    options = ("--data.source.teacher", "VLLM", "--data.source.teacher.options", "[--enforce-eager]")
    run = fit(served, mark, *options, "--trainer.max_steps", "3")
    until(lambda: any(ENGINE in command for command in marked(mark).values()), run)
    finish(run, served)
    assert none_left(mark, 1.0)
    mine, theirs = recorded(local), recorded(served)
    groups, largest = sorted(mine.keys() & theirs.keys()), 0.0
    assert len(groups) >= 2
    for group in groups:
        for ours, other in zip(mine[group], theirs[group], strict=True):
            assert [m.token_ids.tolist() for m in ours.messages] == [
                m.token_ids.tolist() for m in other.messages
            ]
            for a, b in zip(ours.answers, other.answers, strict=True):
                for left, right in zip(rows(a), rows(b), strict=True):
                    largest = max(largest, *(abs(left[i] - right[i]) for i in left.keys() & right.keys()))
    figure(
        f"{sum(map(len, mine.values()))} conversations are the same, largest difference {largest:.2g} nats"
    )
    assert largest < TOLERANCE_NATS


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_all_its_children_however_the_run_ends(tmp_path, number):
    folder, mark = tmp_path / "run", uuid.uuid4().hex
    run = fit(
        folder, mark, "--data.source.teacher", "VLLM", "--data.source.teacher.options", "[--enforce-eager]"
    )
    try:
        until(lambda: any((folder / "recording").glob("*.parquet")), run)
        assert len(marked(mark)) >= 4, "the run, the watch, the server and its engine"
        run.send_signal(number)
        run.wait(120)
    finally:
        run.kill()
    assert none_left(mark, 40.0), marked(mark)


def test_what_vllm_says_is_told_when_it_does_not_start(tmp_path):
    folder, mark = tmp_path / "run", uuid.uuid4().hex
    run = fit(
        folder, mark, "--data.source.teacher", "VLLM", "--data.source.teacher.options", "[--no-such-option]"
    )
    assert run.wait(600) == 2, "an error of the user's, as others are"
    said = folder.with_suffix(".log").read_text()
    assert "data.source.teacher=VLLM: vLLM ended with exit status" in said and "--no-such-option" in said
    assert none_left(mark, 1.0)
