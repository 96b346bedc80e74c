"""``lit-cartridges passkey``."""

from __future__ import annotations


def main(args: list[str]) -> None:
    """Passkey retrieval by length and depth: cascade, StreamingLLM, truncated ICL and ICL."""
    from jsonargparse import auto_cli

    import lit_cartridges.evals  # noqa: F401  languages can then be named without their module
    from lit_cartridges.evals.passkey_command import passkey_command

    auto_cli(passkey_command, args=args, prog="lit-cartridges passkey", as_positional=False)
