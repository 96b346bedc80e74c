"""``lit-cartridges passkey``."""

from __future__ import annotations


def main(args: list[str]) -> None:
    """Passkey retrieval by length and depth: cascade, StreamingLLM, truncated ICL and ICL."""
    import lit_cartridges.evals  # noqa: F401  languages can then be named without their module
    from lit_cartridges.commands.parsers import run_function
    from lit_cartridges.evals.passkey_command import passkey_command

    run_function(passkey_command, args, prog="lit-cartridges passkey")
