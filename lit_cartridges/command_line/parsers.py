"""The commands' parsers: jsonargparse's, with errors of one line and help of one width."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from lit_cartridges.command_line.ending import known_flags, refuse
from lit_cartridges.command_line.parser_errors import condensed

_HELP_COLUMNS = 100


class HelpFormatter(DefaultHelpFormatter):
    """jsonargparse's, for whole docstrings, and of one width, so that help can be rendered ahead (see `rendered`)."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"width": _HELP_COLUMNS, **options})

    def _get_type_str(self, action: argparse.Action) -> str | None:
        told = super()._get_type_str(action)
        return told and re.sub(r"<class '([\w.]+)'>", r"\1", told)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            super(HelpFormatter, self)._fill_text(one, width, indent) for one in text.split("\n\n")
        )


class OneLineParser(ArgumentParser):
    """jsonargparse's, with errors of one line.

    Attributes:
        roots: the classes and functions whose arguments are settings, by the key in front of them.
    """

    roots: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, "allow_abbrev": False, **options})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse in one line, unless jsonargparse is only trying something."""
        if not self.exit_on_error:
            super().error(message, ex)
        flags = {*known_flags(), *self._option_string_actions}
        for action in self._actions:
            for parser in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
                flags |= set(parser._option_string_actions)
        refuse(condensed(message, self.roots, flags), ex)
