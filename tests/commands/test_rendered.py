"""Help that was rendered ahead is what the parser prints, and every command's help costs little."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lit_cartridges.commands import COMMANDS, TRAINER_COMMANDS
from lit_cartridges.commands import rendered as module
from lit_cartridges.commands.rendered import RENDERED, rendered, rendered_help

_MOST_CPU_S = 0.3
# In a process of its own: this one knows classes of tests, which the parser would list.
_RENDER = f"import json; from lit_cartridges.commands.rendered import {rendered.__name__} as one; "


def test_it_is_what_the_parser_prints():
    code = f"{_RENDER} print(json.dumps({{name: one(name) for name in {RENDERED}}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    for name, text in json.loads(done.stdout).items():
        versions, _, body = text.partition("\n")
        before, _, kept = module._place(name).read_text(encoding="utf-8").partition("\n")
        if versions != before:
            pytest.skip(f"rendered with {before}, and here are {versions}")
        assert kept == body, f"the options of {name} have changed: make help-texts"


def test_with_other_versions_the_parser_is_asked(monkeypatch):
    assert rendered_help("fit", ["--help"]) is not None
    assert rendered_help("fit", ["--config", "x", "--help"]) is None
    assert rendered_help("compose", ["--help"]) is None
    monkeypatch.setattr(module, "version", lambda name: "0.0.1")
    assert rendered_help("fit", ["--help"]) is None


@pytest.mark.parametrize(
    "args",
    [["--version"], ["--help"], *([name, "--help"] for name in (*TRAINER_COMMANDS, *COMMANDS))],
    ids=" ".join,
)
def test_help_costs_little(args):
    """In CPU seconds, the best of three: other processes may disturb one."""
    if args[0] in RENDERED and rendered_help(args[0], args[1:]) is None:
        pytest.skip("rendered with other versions")
    least = min(_cpu_seconds(args) for _ in range(3))
    assert least < _MOST_CPU_S


def _cpu_seconds(args: list[str]) -> float:
    process = subprocess.Popen(
        [sys.executable, "-m", "lit_cartridges.cli", *args], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.read().strip()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime
