"""``lit-cartridges completion``: Tab completes commands and their options."""

from __future__ import annotations

from inspect import signature
from typing import Literal


def completion_command(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script by which a shell completes commands, options, class names and choices.

    It is made from the parsers, once, and asks nothing of Python afterwards; write it anew after an upgrade:

    bash: lit-cartridges completion bash > ~/.local/share/bash-completion/completions/lit-cartridges

    zsh: lit-cartridges completion zsh > DIR/_lit-cartridges, where DIR is in $fpath and compinit runs afterwards

    fish: lit-cartridges completion fish > ~/.config/fish/completions/lit-cartridges.fish

    Args:
        shell: the one that reads it.
    """
    from lit_cartridges.cartridge_cli import trainer_parser
    from lit_cartridges.command_line import TRAINER_COMMANDS
    from lit_cartridges.command_line.functions import FIT_ARGUMENTS, function_parser
    from lit_cartridges.command_line.parsers import OneLineParser
    from lit_cartridges.commands import load_command, summaries

    root = OneLineParser(prog="lit-cartridges")
    commands = root.add_subcommands()
    for name, summary in summaries().items():
        parser: OneLineParser
        if name in TRAINER_COMMANDS:
            parser = trainer_parser(name)
        elif FIT_ARGUMENTS in signature(function := load_command(name)).parameters:
            parser = trainer_parser("fit")
            parser.add_function_arguments(function, as_group=False, skip={FIT_ARGUMENTS, "config"})
        else:
            parser = function_parser(function, prog=name)
        commands.add_subcommand(name, parser, help=summary)
    script = root.get_completion_script(f"shtab-{shell}")
    # Files, where nothing of ours fits.
    print(script.replace("complete -o bashdefault -F", "complete -o bashdefault -o default -F"))
