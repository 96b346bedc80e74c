"""A folder that cannot be written is refused before a model is loaded."""

from __future__ import annotations

import os
import subprocess

import pytest

from lit_cartridges.module import lit_cartridge as module
from tests.faults.figures import Figures


def say_when_a_model_is_loaded() -> None:
    load = module.load_frozen_model

    def loud(*args, **kwargs):
        print("A MODEL IS LOADED")
        return load(*args, **kwargs)

    module.load_frozen_model = loud


def test_it_says_when_a_model_is_loaded(start, tmp_path):
    """Else the test below could not fail."""
    fit = start(tmp_path / "run", first=say_when_a_model_is_loaded, settings={"trainer.max_steps": 1})
    assert fit.wait() == 0 and "A MODEL IS LOADED" in fit.told()


@pytest.mark.faults
def test_a_read_only_folder(request, start, tmp_path, long):
    figures = Figures("a folder that cannot be written", long=long)
    if os.geteuid() == 0:  # whom permissions do not stop
        disk = request.getfixturevalue("small_disk")
        (disk / "there").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        why, how = "Read-only file system", "a read-only mount"
    else:
        disk = tmp_path / "disk"
        (disk / "there").mkdir(parents=True)
        for path in (disk / "there", disk):
            path.chmod(0o555)
        why, how = "Permission denied", "no permission"
    for folder in (disk / "there", disk / "new", disk / "new" / "deeper"):
        fit = start(folder, forked=not long, first=None if long else say_when_a_model_is_loaded)
        assert fit.wait() == 2, fit.told()
        assert f"trainer.default_root_dir={str(folder)!r} cannot be written ({why.lower()})" in fit.told()
        assert "A MODEL IS LOADED" not in fit.told()
        figures.moments[f"{how}, {'an old' if folder.name == 'there' else 'a new'} folder"] += 1
        figures.outcomes["refused with status 2 before a model was loaded"] += 1
    figures.save("7-read-only")
