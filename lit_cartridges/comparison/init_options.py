"""The init strategies to be compared, and their options."""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.command_line.parser_errors import condensed
from lit_cartridges.init import INITS, FromCartridge, InitStrategy, Text

FROM_CARTRIDGE, TEXT = FromCartridge.__name__, Text.__name__

Options = Mapping[str, Sequence[str]]
"""``KEY=VALUE`` settings by the strategy's name."""


def split_options(args: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """``--options.NAME.KEY VALUE`` or ``--options.NAME.KEY=VALUE`` by strategy, and the other arguments.

    Raises:
        ValueError: one lacks its key or its value.
    """
    options: dict[str, list[str]] = {}
    others = []
    pending = iter(args)
    for argument in pending:
        if not argument.startswith("--options"):
            others.append(argument)
            continue
        place, equals, value = argument.removeprefix("--options").removeprefix(".").partition("=")
        name, _, key = place.partition(".")
        given = value if equals else next(pending, None)
        if not key or given is None:
            raise ValueError(
                f"{argument}: write --options.STRATEGY.KEY VALUE, as in --options.Text.path FILE"
            )
        options.setdefault(name, []).append(f"{key}={given}")
    return options, others


def check_strategies(names: Sequence[str], options: Options) -> None:
    """
    Raises:
        ValueError: a name is unknown, or twice there; options are for another strategy, or do not suit theirs.
    """
    known = ", ".join(INITS)
    for name in names:
        if name not in INITS:
            raise ValueError(f"strategies={list(names)}: there is no {name!r}; choose from {known}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"strategies={list(names)} must name at least one of {known}, each once")
    for name, given in options.items():
        if name not in names:
            raise ValueError(f"--options.{name}.{given[0]}: the compared strategies are {', '.join(names)}")


def check_options(name: str, settings: Sequence[str]) -> None:
    """Build the strategy once.

    Raises:
        ValueError: it refuses its options, or lacks one.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--init", type=InitStrategy)
    try:
        class_path = f"{INITS[name].__module__}.{name}"
        parsed = parser.parse_args([f"--init={class_path}", *(f"--init.{setting}" for setting in settings)])
        parser.instantiate_classes(parsed)
    except (ArgumentError, ValueError, TypeError) as error:
        told = condensed(str(error), {"init": InitStrategy})
        told = re.sub(r"(?<![\w.])(--)?init\.", f"--options.{name}.", told)
        raise ValueError(f"strategy {name}: {told}; set it by --options.{name}.KEY VALUE") from error


def check_cartridge(settings: Sequence[str], num_tokens: int) -> None:
    """For `FromCartridge` with a path of the user's.

    Raises:
        ValueError: the folder holds fewer than ``num_tokens`` positions, and nothing is set that adds the others.
    """
    given = dict(setting.split("=", 1) for setting in settings)
    if "path" not in given or "grow" in given or not Path(given["path"]).exists():
        return
    positions = Cartridge.from_pretrained(given["path"]).num_tokens
    if positions < num_tokens:
        raise ValueError(
            f"--options.{FROM_CARTRIDGE}.path={given['path']} holds {positions} positions, and the lowest compression "
            f"asks for {num_tokens}; add --options.{FROM_CARTRIDGE}.grow FirstTokens, or choose higher compressions"
        )
