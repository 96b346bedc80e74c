"""A process that dies or hangs ends the others too, with a message that says so, and not never."""

from __future__ import annotations

import subprocess

import pytest

from tests.distributed.processes import log_of, started
from tests.tiny_run import save_corpus, save_model

pytestmark = [pytest.mark.distributed, pytest.mark.faults]  # `make test-distributed`

TIMEOUT_S = 20


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_the_other_process_ends_and_says_why(tmp_path, strategy, how):
    job = {
        "name": "run",
        "model": save_model(tmp_path / "model"),
        "corpus": save_corpus(tmp_path / "corpus.txt"),
        "steps": 50,
        "strategy": strategy,
        "strategy_options": {"timeout_s": TIMEOUT_S},
        "lose": {"rank": 1, "number": how},
    }
    with started(tmp_path / "two", [job], world_size=2) as workers:
        try:
            status = workers[0].wait(timeout=300)
        except subprocess.TimeoutExpired:
            pytest.fail(f"process 0 waits for ever:\n{log_of(tmp_path / 'two', 0)[-4000:]}")
    log = log_of(tmp_path / "two", 0)
    assert status not in (0, None), log[-4000:]
    assert "process 0 of 2 lost another one" in log, log[-4000:]
