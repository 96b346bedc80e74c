"""``lit-cartridges slurm``."""

from __future__ import annotations

from importlib.resources import files

_USAGE = 'sbatch [options of sbatch] "$(lit-cartridges slurm NAME)" [options of lit-cartridges fit]'


def main(args: list[str]) -> None:
    """List the installed jobs for SLURM, or print where the one of a NAME is, for sbatch.

    Raises:
        ValueError: there is no such job.
    """
    jobs = {
        path.name.removesuffix(".sbatch"): path
        for path in sorted(files("lit_cartridges.recipes").joinpath("slurm").iterdir(), key=lambda p: p.name)
        if path.name.endswith(".sbatch")
    }
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: {_USAGE}\n")
        for name, path in jobs.items():
            print(f"{name}\n    {path.read_text().splitlines()[1].lstrip('# ')}")
    elif len(args) == 1 and args[0] in jobs:
        print(jobs[args[0]])
    else:
        raise ValueError(
            f"there is no job {' '.join(args)!r}; choose one of {', '.join(jobs)}, as in: {_USAGE}"
        )
