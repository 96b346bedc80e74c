"""``lit-cartridges slurm``."""

from __future__ import annotations

from importlib.resources import files

_USAGE = 'sbatch [options of sbatch] "$(lit-cartridges slurm NAME)" [options of lit-cartridges fit]'


def slurm_command(name: str | None = None) -> None:
    """List the installed jobs for SLURM, or print where the one of a NAME is, for sbatch.

    Args:
        name: of the job whose file is printed.

    Raises:
        ValueError: there is no such job.
    """
    jobs = {
        path.name.removesuffix(".sbatch"): path
        for path in sorted(files("lit_cartridges.recipes").joinpath("slurm").iterdir(), key=lambda p: p.name)
        if path.name.endswith(".sbatch")
    }
    if name is None:
        print(f"usage: {_USAGE}\n")
        for job, path in jobs.items():
            print(f"{job}\n    {path.read_text().splitlines()[1].lstrip('# ')}")
    elif name in jobs:
        print(jobs[name])
    else:
        raise ValueError(f"there is no job {name!r}; choose one of {', '.join(jobs)}, as in: {_USAGE}")
