"""The jobs of recipes/slurm, as far as they can be looked at without SLURM; tests/slurm submits them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lit_cartridges.cartridge_cli import CartridgeCLI
from lit_cartridges.cli import main

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "recipes" / "slurm"
JOBS = sorted(FOLDER.glob("*.sbatch"))
SHARED = FOLDER / "job.sh"
OPTIONS = {
    "array",
    "cpus-per-task",
    "gpus-per-node",
    "job-name",
    "nodes",
    "ntasks-per-node",
    "open-mode",
    "output",
    "requeue",
    "signal",
    "time",
}
by_name = pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)


def test_there_are_four():
    assert [job.stem for job in JOBS] == ["serve", "sweep", "train", "train_with_teacher"]


@pytest.mark.parametrize("file", [*JOBS, SHARED], ids=lambda path: path.name)
def test_bash_can_read_it(file):
    done = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@by_name
def test_shellcheck_finds_nothing(job):
    done = subprocess.run(
        ["shellcheck", "--external-sources", f"--source-path={ROOT}", str(job)],
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""


@by_name
def test_the_header_names_prerequisite_launch_line_and_override(job):
    header = [line for line in job.read_text().splitlines() if line.startswith("# ")]
    for word in ("Prerequisite:", "Launch:", "Override:"):
        assert any(word in line for line in header), f"{job.name} lacks {word}"
    assert f"recipes/slurm/{job.name}" in job.read_text()
    assert header[0].endswith(".")  # what `lit-cartridges slurm` prints


@by_name
def test_every_option_of_sbatch_is_known_and_given_once_for_each_part_of_the_job(job):
    lines = [line for line in job.read_text().splitlines() if line.startswith("#SBATCH")]
    for part in "\n".join(lines).split("#SBATCH hetjob"):
        options = re.findall(r"^#SBATCH (.*)$", part, re.M)
        names = [re.fullmatch(r"--([a-z-]+)(=\S+)?", option)[1] for option in options]
        assert set(names) <= OPTIONS and len(set(names)) == len(names)
        assert {"nodes", "ntasks-per-node", "gpus-per-node", "time", "requeue"} <= set(names)
    # Options after the first command would be ignored, without a word.
    assert job.read_text().rindex("#SBATCH") < job.read_text().index("set -euo pipefail")


@by_name
def test_every_variable_may_be_left_out_and_is_explained(job):
    text = "\n".join(
        line for file in (SHARED, job) for line in file.read_text().splitlines() if not line.startswith("#")
    )
    used = set(re.findall(r"\$\{?([A-Z][A-Z_0-9]+)", text)) - {"PATH", "MASTER_ADDR"}
    assert {"VENV", "PORT" if job.stem == "serve" else "RUN"} <= used
    for name in used:
        if name.startswith("SLURM_"):
            continue
        assert f"${{{name}:-" in text, f"{name} has no default; bash would end without a word of ours"
        assert f"`{name}`" in (ROOT / "docs" / "slurm.md").read_text(), (
            f"docs/slurm.md does not explain {name}"
        )


@by_name
def test_the_job_finds_what_it_shares_by_its_own_name(job):
    assert rf"/{job.stem}\.sbatch" in job.read_text()
    assert 'source "$here/job.sh"' in job.read_text()


def test_the_command_lists_the_jobs_and_says_where_one_is(capsys):
    main(["slurm"])
    shown = capsys.readouterr().out
    assert all(f"\n{job.stem}\n    " in shown for job in JOBS)
    main(["slurm", "train"])
    assert Path(capsys.readouterr().out.strip()).samefile(FOLDER / "train.sbatch")
    with pytest.raises(SystemExit) as end:
        main(["slurm", "trian"])
    assert end.value.code == 2
    assert "there is no job 'trian'; choose one of serve, sweep, train" in capsys.readouterr().err


def test_lightning_does_not_requeue_a_job_too(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    task = {
        "NTASKS": 1,
        "NTASKS_PER_NODE": 1,
        "NNODES": 1,
        "PROCID": 0,
        "LOCALID": 0,
        "NODEID": 0,
        "JOB_ID": 7,
    }
    for name, value in {**task, "JOB_NAME": "cartridge"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    trainer = CartridgeCLI.run_with(["--config", "pocket.yaml"], run=False).trainer
    environment = trainer._accelerator_connector.cluster_environment
    assert type(environment).__name__ == "SLURMEnvironment"
    assert not environment.auto_requeue
