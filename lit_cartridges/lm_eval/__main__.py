"""The harness's own command, with the model ``lit_cartridges`` beside its others.

It finds models of other packages by no entry point, so that something must name them before it looks.
"""

from __future__ import annotations

import sys

from lit_cartridges.command_line.ending import command
from lit_cartridges.optional import require_modules


def main() -> None:
    """Run the harness on this process's arguments; ends with status 2 on bad settings."""
    with command("lm_eval", sys.argv[1:]) as left:
        require_modules("lm_eval")
        import lm_eval.models  # noqa: F401  all of its own, before one of ours makes its list look complete
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry

        model_registry.register("lit_cartridges", target="lit_cartridges.lm_eval.model:CartridgeLM")
        sys.argv[1:] = left
        cli_evaluate()


if __name__ == "__main__":
    main()
