"""Commands that are functions: their parameters are the options, with the types, defaults and help said there.

A parameter that is not keyword-only is positional. One of the name `FIT_ARGUMENTS` gets all arguments that are no options of
the function: it hands them to ``fit``.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin

from lit_cartridges.command_line.config_files import require_config_files
from lit_cartridges.command_line.ending import known_flags
from lit_cartridges.command_line.parsers import OneLineParser

FIT_ARGUMENTS = "fit_arguments"
_OPTION = re.compile(r"--?[A-Za-z]")


def run_function(function: Callable[..., Any], args: Sequence[str], *, prog: str) -> Any:
    """Call the function with the arguments as its options."""
    parser = function_parser(function, prog=prog)
    parameters = inspect.signature(function).parameters
    own, more = list(args), {}
    if FIT_ARGUMENTS in parameters:
        known_flags().update(parser._option_string_actions)  # fit meets what is a mistyped one of these
        own, more[FIT_ARGUMENTS] = _own_and_others(args, parser)
    if "config" not in parameters:
        require_config_files(own)
    settings = parser.instantiate(parser.parse_args(_single_values(own, parser)))
    if "config" not in parameters:
        settings.pop("config", None)
    return function(**settings, **more)


def function_parser(function: Callable[..., Any], *, prog: str) -> OneLineParser:
    """The parser of the function's parameters."""
    parser = OneLineParser(prog=prog, description=_description(function))
    parser.roots = {"": function}  # type: ignore[misc]
    parameters = inspect.signature(function).parameters
    if not {"config", FIT_ARGUMENTS} & {*parameters} and any(
        p.kind is p.KEYWORD_ONLY for p in parameters.values()
    ):
        parser.add_argument("--config", action="config", help="YAML file with options of this command.")
    parser.add_function_arguments(
        function, as_group=False, as_positional=True, sub_configs=True, skip={FIT_ARGUMENTS}
    )
    flags = parser._option_string_actions
    for name, parameter in parameters.items():
        action: Any = next((one for one in parser._actions if one.dest == name), None)
        if name.endswith("_"):  # is a word of Python without it
            action.option_strings = [f"--{name[:-1]}"]
            flags[f"--{name[:-1]}"] = flags.pop(f"--{name}")
        if parameter.kind is parameter.KEYWORD_ONLY:
            continue
        if action.option_strings:  # has a default, and may be left out
            del flags[f"--{name}"]
            action.option_strings, action.nargs = [], "?"
        elif get_origin(action._typehint) is list:  # several words, not one with a list in it
            action.nargs, action.metavar = "+", None
            action._typehint = get_args(action._typehint)[0]
    return parser


def _description(function: Callable[..., Any]) -> str:
    """The docstring up to its sections."""
    return re.split(r"\n+(?:Args|Returns|Raises):\n", inspect.getdoc(function) or "")[0]


def _own_and_others(args: Sequence[str], parser: OneLineParser) -> tuple[list[str], list[str]]:
    """The parser's options with their values, and everything else."""
    own: list[str] = []
    others: list[str] = []
    into = others
    for argument in args:
        if _OPTION.match(argument):
            into = own if argument.partition("=")[0] in parser._option_string_actions else others
        into.append(argument)
    return own, others


def _single_values(args: Sequence[str], parser: OneLineParser) -> list[str]:
    """``--systems icl cascade`` as ``--systems=["icl", "cascade"]``, and ``--compose`` as ``--compose=true``: jsonargparse
    wants one value for every option."""
    switches = {flag for flag, action in parser._option_string_actions.items() if _hint(action) is bool}
    lists = {flag.removesuffix("+") for flag in parser._option_string_actions if flag.endswith("+")}
    single: list[str] = []
    left = list(args)
    while left:
        argument = left.pop(0)
        flag, equals, value = argument.partition("=")
        if flag in switches and not equals and (left[:1] or [""])[0].lower() not in ("true", "false"):
            argument = f"{flag}=true"
        elif flag in lists:
            values = [value] if equals else []
            while left and not _OPTION.match(left[0]):
                values.append(left.pop(0))
            if values:
                whole = len(values) == 1 and values[0].startswith("[")
                argument = f"{flag}={values[0] if whole else json.dumps(values)}"
        single.append(argument)
    return single


def _hint(action: Any) -> Any:
    return getattr(action, "_typehint", None)
