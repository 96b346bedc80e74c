"""Recipes, looked at before a parser reads them: a file of YAML, one mapping, without circles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lit_cartridges.command_line.given import CONFIG_FLAGS, options
from lit_cartridges.errors import SettingError
from lit_cartridges.settings import Existing

_MOST_VALUES = 100_000
_MOST_LEVELS = 100


def require_config_files(argv: Sequence[str]) -> None:
    """
    Raises:
        SettingError: what stands behind a ``--config`` is no recipe.
    """
    for flag, path in options(argv):
        if flag in CONFIG_FLAGS and "://" not in path and (why := _problem(path)) is not None:
            raise SettingError(f"{flag}={path}: {why}")


def installed(argument: str) -> str:
    """The argument, or the place of the installed recipe that it names."""
    option, _, name = argument.rpartition("=")
    recipe = files("lit_cartridges.recipes") / name
    if (
        option not in ("", "--config")
        or not name.endswith(".yaml")
        or Path(name).exists()
        or not recipe.is_file()
    ):
        return argument
    return f"{option}={recipe}" if option else str(recipe)


def _problem(path: str) -> str | None:
    if (why := Existing("file").problem(path)) is not None:
        listed = "; lit-cartridges recipes lists those that are installed" if "no such" in why else ""
        return why + listed
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        _count(content, levels=0, counted=[0])
    except UnicodeDecodeError:
        return "is not text in UTF-8"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return f"is not YAML ({where}{error.problem or error.context})"
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return f"is not YAML ({error})"
    if not isinstance(content, Mapping):
        return f"must hold settings by name, and it holds {'nothing' if content is None else type(content).__name__}"
    return None


def _count(content: Any, *, levels: int, counted: list[int]) -> None:
    """
    Raises:
        ValueError: the content refers to itself, or to parts of it so often that it has no end in practice.
    """
    counted[0] += 1
    if levels > _MOST_LEVELS:
        raise ValueError("a value contains itself, or is nested without end")
    if counted[0] > _MOST_VALUES:
        raise ValueError(f"it comes to more than {_MOST_VALUES:,} values")
    for item in (
        content.values() if isinstance(content, Mapping) else content if isinstance(content, list) else ()
    ):
        _count(item, levels=levels + 1, counted=counted)
