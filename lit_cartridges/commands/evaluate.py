"""``lit-cartridges evaluate``."""

from __future__ import annotations


def main(args: list[str]) -> None:
    """Score cartridges and baselines on a task, as a table and as JSON."""
    import lit_cartridges.evals  # noqa: F401  tasks can then be named without their module
    from lit_cartridges.commands.parsers import run_function
    from lit_cartridges.evals.command import evaluate_command

    run_function(evaluate_command, args, prog="lit-cartridges evaluate")
