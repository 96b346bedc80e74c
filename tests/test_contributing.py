"""The examples of CONTRIBUTING.md, in a copy of the repository: one file and one test each, and no other file touched."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from lit_cartridges.pocket.world import World
from tests.documented import ROOT, blocks, run, with_command

FILE = re.compile(
    r"^`((?:lit_cartridges|tests)/\S+\.py)`:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
PARTS = ("An init strategy", "An evaluation task", "A teacher", "A file format", "A corpus reader")
# Tests that try every class of a kind, and so the new ones.
ALL_OF_A_KIND = (
    "tests/formats/test_convert.py",
    "tests/formats/test_hostile_files.py",
    "tests/init/test_chosen_by_name.py",
    "tests/init/test_init_strategies.py::test_the_registry_names_every_strategy_that_the_package_has",
    "tests/fuzz/test_fuzz.py",
)


def sections() -> dict[str, str]:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return {title: text.split(f"\n## {title}\n")[1].split("\n## ")[0] for title in PARTS}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_one_new_file_one_new_test_and_one_line(part):
    files = dict(FILE.findall(sections()[part]))
    assert [name.split("/")[0] for name in files] == ["lit_cartridges", "tests"]
    assert not [name for name in files if (ROOT / name).exists()]
    assert len(blocks(sections()[part], "sh")) == 1


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The repository with the examples in it; the package as it is installed, with its two folders of the root inside."""
    folder = tmp_path_factory.mktemp("copy")
    without = shutil.ignore_patterns("__pycache__")
    for name in ("lit_cartridges", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=without)
    for name in ("callbacks", "recipes"):
        shutil.copytree(ROOT / name, folder / "lit_cartridges" / name, ignore=without)
        (folder / name).symlink_to(folder / "lit_cartridges" / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for section in sections().values():
        for name, code in FILE.findall(section):
            (folder / name).write_text(code)
    said = World(7).corpus(1500).text.split(" . ")
    times = (
        f"{n}\n00:{n // 60:02}:{n % 60:02},000 --> 00:{n // 60:02}:{n % 60:02},900\n" for n in range(999)
    )
    (folder / "film.srt").write_text("\n".join(f"{a}{b} .\n" for a, b in zip(times, said, strict=False)))
    return with_command(folder)


@pytest.mark.slow
def test_their_tests_pass_and_so_do_those_that_try_every_class_of_a_kind(copy):
    own = [name for text in sections().values() for name, _ in FILE.findall(text) if name.startswith("tests")]
    options = ("-q", "-p", "no:cacheprovider")
    run(copy, sys.executable, "-m", "pytest", *options, *own, *ALL_OF_A_KIND, PYTHONPATH=str(copy))


@pytest.mark.slow
def test_their_lines_run(copy):
    """One after the other: the file format's line converts what the init strategy's has trained."""
    for text in sections().values():
        run(copy, "/bin/sh", "-ec", blocks(text, "sh")[0][1], PYTHONPATH=str(copy))
    assert {"cartridge.json", "plain.parquet"} <= {file.name for file in copy.iterdir()}
