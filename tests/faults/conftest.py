"""Runs to be disturbed, and one that was left alone. The long versions run only where -m names ``faults``."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults.command import Command, arguments, options
from tests.tiny_run import save_corpus, save_model

Start = Callable[..., Command]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    wanted = "faults" in (config.option.markexpr or "")
    left_out = [i for i in items if here in i.path.parents and i.get_closest_marker("slow") and not wanted]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``long`` has a short version, in forks, and a long one, some or all of whose commands start
    an interpreter anew, as a shell does."""
    if "long" in metafunc.fixturenames:
        values = [pytest.param(False, id="short"), pytest.param(True, id="long", marks=pytest.mark.slow)]
        metafunc.parametrize("long", values)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model's folder and a corpus."""
    folder = tmp_path_factory.mktemp("inputs")
    return save_model(folder / "model"), save_corpus(folder / "corpus.txt")


@pytest.fixture(scope="session")
def undisturbed(inputs: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    fit = Command(
        arguments("fit", options(folder / "run", *inputs)), folder / "log.txt", forked=True, first=None
    )
    assert fit.wait() == 0, fit.told()
    return folder / "run"


@pytest.fixture
def start(inputs: tuple[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts a command in a folder; those that still go on at the test's end are killed."""
    started: list[Command] = []

    def begin(
        folder: Path, *, name: str = "fit", forked: bool = True, settings: Any = None, **rest: Any
    ) -> Command:
        args = arguments(name, options(folder, *inputs) | (settings or {}))
        log = tmp_path / f"command-{len(started)}.log"
        started.append(Command(args, log, forked=forked, **rest))
        return started[-1]

    yield begin
    for command in started:
        if not command.ended():
            command.kill()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte in memory; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = partial(subprocess.run, capture_output=True, text=True, check=False)
    try:
        made = mount(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)])
    except FileNotFoundError:
        pytest.skip("there is no mount command to make a small disk with")
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    yield folder
    mount(["umount", "--lazy", str(folder)])
