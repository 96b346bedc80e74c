"""``lit-cartridges`` in a process of its own, on the tiny model, and what is left of it when it has died."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_cartridges.cli import main
from tests.faults.forked import forked
from tests.tiny_run import SEED_PROMPTS

STEPS = 10
LIMIT_S = 300  # generous: the machine may be busy
WATCHED = Path(__file__).parent / "watched"


def options(folder: Path, model: str, corpus: str) -> dict[str, Any]:
    """A run that makes a group of conversations in most steps, and saves after each."""
    return {
        "trainer.accelerator": "cpu",
        "trainer.max_steps": STEPS,
        "trainer.log_every_n_steps": 1,
        "trainer.default_root_dir": folder,
        "checkpoint.every_n_steps": 1,
        "model.model": model,
        "model.num_tokens": 8,
        "data.corpus": corpus,
        "data.source.seed_prompts": json.dumps(SEED_PROMPTS),
        "data.source.min_chunk_tokens": 20,
        "data.source.max_chunk_tokens": 40,
        "data.source.conversations_per_group": 4,
        "data.groups_per_round": 1,
        "data.source.question_temperature": 1.0,
        "data.source.question_max_tokens": 5,
        "data.source.answer_max_tokens": 8,
        "data.source.top_k": 4,
        "data.tokens_per_batch": 40,
    }


def arguments(name: str, settings: dict[str, Any]) -> list[str]:
    return [name, *(f"--{key}={value}" for key, value in settings.items())]


class Command:
    """A command that goes on while the test does something to it.

    Args:
        args: of ``lit-cartridges``.
        log: gets what it prints.
        forked: a fork of the test's process, which has imported everything, instead of an interpreter that starts anew.
        first: called in a forked process before the command.
        environment: for an interpreter that starts anew.
    """

    def __init__(
        self,
        args: list[str],
        log: Path,
        *,
        forked: bool,
        first: Callable[[], None] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.log, self.stack = log, log.with_suffix(".stack")
        self._status: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        if forked:
            self.pid = self._fork(args, first)
        else:
            program = Path(sys.executable).with_name("lit-cartridges")
            command = [str(program)] if program.exists() else [sys.executable, "-m", "lit_cartridges.cli"]
            paths = [str(WATCHED), *filter(None, [os.environ.get("PYTHONPATH")])]
            with self.log.open("wb") as out:
                self._process = subprocess.Popen(
                    [*command, *args],
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={
                        **os.environ,
                        "OMP_NUM_THREADS": "1",
                        "PYTHONPATH": os.pathsep.join(paths),
                        "WHERE": str(self.stack),
                        **(environment or {}),
                    },
                )
            self.pid = self._process.pid

    def _fork(self, args: list[str], first: Callable[[], None] | None) -> int:
        def work() -> int:
            out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
            faulthandler.register(signal.SIGUSR1, file=self.stack.open("w"), all_threads=True)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if first is not None:
                first()
            try:
                main(args)
            except SystemExit as end:
                return end.code if isinstance(end.code, int) else 0
            except KeyboardInterrupt:
                return 130
            return 0

        return forked(work)

    def ended(self) -> bool:
        """Whether it has ended by now."""
        if self._status is None and self._process is not None:
            self._status = self._process.poll()
        elif self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is not None

    def until(self, happened: Callable[[], Any], *, every_s: float = 0.005) -> bool:
        """Wait for it; False when the command has ended before.

        Raises:
            AssertionError: neither comes.
        """
        limit = time.monotonic() + LIMIT_S
        while not happened():
            if self.ended():
                return False
            assert time.monotonic() < limit, f"nothing happens:\n{self.told()[-2000:]}"
            time.sleep(every_s)
        return True

    def wait(self) -> int:
        """Its status as a shell shows it: 128 + the signal that killed it."""
        self.until(lambda: False)
        assert self._status is not None
        return self._status if self._status >= 0 else 128 - self._status

    def send(self, number: signal.Signals) -> None:
        if not self.ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> str | None:
        """SIGKILL, and what it was doing just then; None when it had ended."""
        self.send(signal.SIGUSR1)
        limit = time.monotonic() + 0.2  # a process that has no handler yet, or no longer, writes nothing
        while time.monotonic() < limit and not self.ended():
            if self.stack.exists() and self.stack.stat().st_size:
                break
        self.send(signal.SIGKILL)
        status = self.wait()
        return self._where() if status in (128 + signal.SIGKILL, 128 + signal.SIGUSR1) else None

    def _where(self) -> str:
        stack = self.stack.read_text() if self.stack.exists() else ""
        for place, marks in PLACES.items():
            if all(any(mark in line for line in stack.splitlines()) for mark in marks):
                return place
        return "starting, logging or ending"

    def told(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


# What is in the stack of a process that is there; the first that fits counts.
PLACES = {
    "a checkpoint's write": ("in write_atomically", "in save_checkpoint"),
    "a recording's write": ("in write_atomically", "in write_conversations"),
    "a cartridge's write": ("in write_atomically", "in save_cartridge"),
    "generation": ("self_study/synthesizer.py",),
    "the backward pass": ("in backward",),
    "the forward pass": ("in training_step",),
    "loading the model, the init": ("in configure_model",),
}
