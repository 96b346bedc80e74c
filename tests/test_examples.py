"""What a newcomer runs: the README's lines, the tutorial's blocks in their order, and the scripts of examples/."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.documented import ROOT, blocks, run, with_command

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where the repository's files are, and a run's files are not yet."""
    for name in ("recipes", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return with_command(tmp_path)


def test_the_scripts_are_three_and_short():
    assert len(SCRIPTS) == 3
    assert all(len(script.read_text().splitlines()) <= 60 for script in SCRIPTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("train_and_chat", ["the city of Sossa is Kurholm .", "the instrument of Sossa is lute ."]),
        pytest.param(
            "compose",
            ["20 + 20 = 39", "the city of Sossa is Kurholm .", "the city of Zessa is Vonburg ."],
            marks=pytest.mark.thorough,
        ),
        ("stream_with_cascade", ["cascade: 388 of 1,508 positions kept", "StreamingLLM: 388"]),
    ],
)
def test_a_script(script, told, folder):
    out = run(folder, sys.executable, f"examples/{script}.py")
    assert all(line in out for line in told), out


@pytest.mark.slow
def test_the_lines_of_the_readme(folder):
    (code,) = (code for language, code in blocks((ROOT / "README.md").read_text(), "python"))
    assert len([line for line in code.splitlines() if line and "import " not in line]) == 5
    assert "the city of Sossa is Kurholm ." in run(folder, sys.executable, "-c", code)


@pytest.mark.thorough
def test_the_tutorial(folder):
    found = blocks((ROOT / "docs" / "tutorial.md").read_text(), "sh", "python")
    commands = [code for language, code in found if language == "sh"]
    python = "".join(code for language, code in found if language == "python")
    trained, asked, scored = (run(folder, "/bin/sh", "-ec", command) for command in commands)
    for part in ("cartridge", "cartridge-best", "config.yaml", "recording", "checkpoints", "logs"):
        assert (folder / "runs" / "pocket_text" / part).exists()
    assert "Kurholm" in asked
    accuracy = {
        line.split()[0]: line.split("±")[0].split()[-1] for line in scored.splitlines() if "±" in line
    }
    assert float(accuracy["runs/pocket_text/cartridge"]) >= 0.8 > 0.3 >= float(accuracy["no_context"])
    run(folder, sys.executable, "-c", python)
