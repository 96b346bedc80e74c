"""A module or a data module of one's own, in the place of ours: ``--model my_package.MyLitCartridge``.

Its settings stay where they were, ``--model.num_tokens 512``, with the class named or not. In a recipe the class stands as
Lightning writes it, ``model: {class_path: …, init_args: {…}}``; the flat shape, ``model: {num_tokens: …}``, is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]
from lightning.pytorch.cli import LightningArgumentParser

from lit_cartridges.command_line.given import CONFIG_FLAGS, options
from lit_cartridges.command_line.parsers import OneLineParser
from lit_cartridges.errors import SettingError

T = TypeVar("T")
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class TrainerParser(OneLineParser, LightningArgumentParser):
    """LightningCLI's; a recipe may name a class of one's own for the model and the data."""

    def _load_config_parser_mode(self, content: str, *args: Any, **kwargs: Any) -> Any:
        return super()._load_config_parser_mode(flattened(content, ("model", "data")), *args, **kwargs)


def own_class(key: str, base: type[T], args: Sequence[str]) -> tuple[type[T], list[str]]:
    """The class that the arguments name for ``key``, ``base`` where they name none, and the arguments without its name.

    Typed, it counts before the one of a recipe; of several recipes the last.

    Raises:
        SettingError: there is no such class, or it does not derive from ``base``.
    """
    named = [value for flag, path in options(args) if flag in CONFIG_FLAGS for value in _named_in(path, key)]
    left: list[str] = []
    place = 0
    while place < len(args):
        flag, equals, value = args[place].partition("=")
        place += 1
        if flag == f"--{key}" and not equals and place < len(args):
            value = args[place]
        if flag == f"--{key}" and _IMPORT_PATH.fullmatch(value) and not Path(value).is_file():
            named.append(value)
            place += not equals
        else:
            left.append(args[place - 1])
    return (_imported(key, base, named[-1]) if named else base), left


def flattened(text: str, keys: Sequence[str]) -> str:
    """A recipe whose ``keys`` are in the flat shape."""
    content = _mapping(text)
    shaped = [key for key in keys if _class_path(content.get(key))]
    if not shaped:
        return text
    flat = {key: content[key].get("init_args") or {} for key in shaped}
    return str(yaml.safe_dump({**content, **flat}, sort_keys=False))


def with_classes(text: str, classes: Mapping[str, type]) -> str:
    """The opposite, for the recipe that is saved: ``classes`` by their keys."""
    if not classes:
        return text
    content = _mapping(text)
    for key, own in classes.items():
        content[key] = {"class_path": f"{own.__module__}.{own.__qualname__}", "init_args": content[key]}
    return str(yaml.safe_dump(content, sort_keys=False))


def _named_in(path: str, key: str) -> list[str]:
    try:
        content = _mapping(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # which whoever reads it for its settings tells
    named = _class_path(content.get(key))
    return [] if named is None else [named]


def _mapping(text: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _class_path(value: Any) -> str | None:
    named = value.get("class_path") if isinstance(value, dict) else None
    return named if isinstance(named, str) else None


def _imported(key: str, base: type[T], path: str) -> type[T]:
    module, _, name = path.rpartition(".")
    if path == base.__name__:
        return base
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise SettingError(
            f"there is no such class; give the import path of a {base.__name__} that is installed or on PYTHONPATH",
            {key: path},
        ) from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise SettingError(f"is no {base.__name__}; derive it from that", {key: path})
    return found
