"""``package:`` names open what an installed package declares, and import nothing (law 12)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lit_cartridges.models import ModelError
from lit_cartridges.models.packages import package_folder


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package of two parts that leaves a file when it is imported; returns how to declare its entry point."""
    package = tmp_path / "guest" / "inner"
    (package / "model").mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text(
            f"from pathlib import Path; Path({str(tmp_path / 'ran')!r}).touch()"
        )
    (tmp_path / "outside").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))

    def declare(value: str) -> None:
        info = tmp_path / "guest-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[lit_cartridges.models]\nmine = {value}\n")

    yield declare
    assert not (tmp_path / "ran").exists(), "the package was imported"
    assert "guest" not in sys.modules


def test_a_declared_package_is_opened_without_being_imported(installed, tmp_path):
    installed("guest.inner")
    assert package_folder("package:guest.inner/model") == tmp_path / "guest" / "inner" / "model"


@pytest.mark.parametrize(
    "name", ["package:guest.inner/model", "package:guest/inner", "package:json/x", "package:"]
)
def test_others_are_not_opened(installed, name):
    installed("another.package")
    with pytest.raises(ModelError, match=rf"--model='{name}': no installed package declares"):
        package_folder(name, setting="--model")


@pytest.mark.parametrize("folder", ["../../outside", "model/../../../outside", "/etc", "..\\outside"])
def test_a_folder_outside_the_package_is_refused(installed, folder):
    installed("guest.inner")
    with pytest.raises(ModelError, match="must lie inside the package"):
        package_folder(f"package:guest.inner/{folder}")


def test_a_folder_that_is_not_there_is_named(installed):
    installed("guest.inner")
    with pytest.raises(ModelError, match="package 'guest.inner' has no folder 'nowhere'"):
        package_folder("package:guest.inner/nowhere")


def test_a_declared_package_that_is_not_there_is_named_with_the_mend(installed):
    installed("absent_guest")
    with pytest.raises(ModelError, match="absent_guest is not installed; pip install absent_guest"):
        package_folder("package:absent_guest")


def test_this_package_declares_its_own_model():
    assert (package_folder("package:lit_cartridges.pocket/model") / "config.json").is_file()
    assert (
        package_folder("package:lit_cartridges.pocket/model").parent
        == Path(sys.modules["lit_cartridges"].__file__ or "").parent / "pocket"
    )
