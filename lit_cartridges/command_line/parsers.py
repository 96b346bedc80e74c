"""The commands' parsers: argparse's and jsonargparse's, with errors of one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn

from jsonargparse import ArgumentParser, auto_cli
from lightning.pytorch.cli import LightningArgumentParser

from lit_cartridges.command_line.config_files import require_config_files
from lit_cartridges.command_line.ending import known_flags, refuse
from lit_cartridges.command_line.own_classes import flattened
from lit_cartridges.command_line.parser_errors import condensed
from lit_cartridges.settings import described, problem


class CommandParser(argparse.ArgumentParser):
    """argparse's, for the commands with a few options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"allow_abbrev": False} | options))

    def error(self, message: str) -> NoReturn:
        """Refuse in one line."""
        refuse(condensed(message, {}, self._option_string_actions))

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """argparse's; what it leaves to another parser may be a mistyped option of this one."""
        known_flags().update(self._option_string_actions)
        return super().parse_known_args(*args, **kwargs)


def option(hint: Any) -> Callable[[str], Any]:
    """``type=`` of argparse for a setting with this annotation (see `lit_cartridges.settings`)."""

    def parse(text: str) -> Any:
        kind = hint.__origin__ if hasattr(hint, "__metadata__") else hint
        try:
            value = text if kind not in (int, float) else kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: must be {described(hint)}") from None
        if (why := problem(value, hint)) is not None:
            raise argparse.ArgumentTypeError(f"{text!r}: {why}")
        return kind(value) if isinstance(kind, type) else value

    parse.hint = hint  # type: ignore[attr-defined]
    return parse


class _OneLine(ArgumentParser):
    """jsonargparse's, with errors of one line.

    Attributes:
        roots: the classes and functions whose arguments are settings, by the key in front of them.
    """

    roots: ClassVar[Mapping[str, Any]] = {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse in one line, unless jsonargparse is only trying something."""
        if not self.exit_on_error:
            super().error(message, ex)
        flags = {*known_flags(), *self._option_string_actions}
        for action in self._actions:
            for parser in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
                flags |= set(parser._option_string_actions)
        refuse(condensed(message, self.roots, flags), ex)


class TrainerParser(_OneLine, LightningArgumentParser):
    """LightningCLI's; a recipe may name a class of one's own for the model and the data (see `own_classes`)."""

    def _load_config_parser_mode(self, content: str, *args: Any, **kwargs: Any) -> Any:
        return super()._load_config_parser_mode(flattened(content, ("model", "data")), *args, **kwargs)


def run_function(function: Callable[..., Any], args: list[str], *, prog: str) -> Any:
    """Call the function with the arguments as its options."""
    require_config_files(args)
    parser: Any = type("FunctionParser", (_OneLine,), {"roots": {"": function}})
    return auto_cli(function, args=args, prog=prog, as_positional=False, parser_class=parser)
