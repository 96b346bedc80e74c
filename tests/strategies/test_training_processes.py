"""Trainings as processes: each is run to its end once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import lit_cartridges
from lit_cartridges.strategies import training_processes


@dataclass(frozen=True)
class Version:
    """The quickest command that there is."""

    folder: Path
    option: str = "--version"
    name: str = "a run"
    max_steps: int = 1

    def arguments(self):
        return [self.option]


@pytest.mark.slow
def test_a_run_is_a_process_of_its_own_and_not_started_twice(tmp_path, monkeypatch):
    run = Version(tmp_path / "run")
    assert not training_processes.is_finished(run)
    training_processes.train_all([run], processes=1)
    assert training_processes.is_finished(run)
    assert (run.folder / "log.txt").read_text().strip() == lit_cartridges.__version__
    monkeypatch.setattr(training_processes, "_start", lambda run: pytest.fail("started again"))
    training_processes.train_all([run], processes=1)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(then --version, now --help\)"):
        training_processes.train_all([Version(run.folder, "--help")], processes=1)
