"""`lit-cartridges completion`: what bash offers after the script, and that Tab asks nothing of Python."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from lit_cartridges.command_line import TRAINER_COMMANDS
from lit_cartridges.commands import COMMANDS

_TAB = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_TYPE=9
_shtab_lit_cartridges "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "lit-cartridges"
    path.write_text(printed("bash"))
    return path


def printed(shell: str) -> str:
    command = [sys.executable, "-m", "lit_cartridges.cli", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def offered(script, *words: str) -> set[str]:
    """After Tab at the end of the last word."""
    command = ["bash", "-c", _TAB, "tab", str(script), "lit-cartridges", *words]
    return set(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["com"], {"compare-inits", "compose", "completion"}),
        (["fit", "--trainer.max_s"], {"--trainer.max_steps"}),
        (["predict", "--model.num_t"], {"--model.num_tokens"}),
        (["convert", "a", "b", "--dtype", ""], {"float32", "bfloat16", "float16", "null"}),
        (["convert", "--base"], {"--base_model"}),
        (["synthesize", "--out"], {"--output"}),
        (["synthesize", "--data.tokens"], {"--data.tokens_per_batch"}),
        (["compare-inits", "--every"], {"--every_n_steps"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
    ],
)
def test_what_is_offered(script, words, expected):
    assert offered(script, *words) == expected


def test_commands_classes_and_their_options(script):
    assert offered(script, "") == {*TRAINER_COMMANDS, *COMMANDS}
    assert "lit_cartridges.init.FirstTokens" in offered(script, "fit", "--model.init", "lit")
    assert "--model.init.std" in offered(script, "fit", "--model.init", "RandomVectors", "--model.init.s")
    assert "--task" in offered(script, "evaluate", "--ta")


def test_tab_is_quick(script):
    def children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = children()
    for _ in range(3):
        offered(script, "fit", "--model.init", "lit")
    assert (children() - before) / 3 < 0.3


def test_files_where_nothing_fits(script):
    assert "complete -o bashdefault -o default -F _shtab_lit_cartridges lit-cartridges" in script.read_text()


@pytest.mark.thorough
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(shell):
    script = printed(shell)
    assert all(name in script for name in (*TRAINER_COMMANDS, *COMMANDS)) and "model.num_tokens" in script
