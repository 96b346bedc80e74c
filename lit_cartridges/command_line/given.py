"""The settings of a command as its user gave them, and messages that name them so.

A message of ours says ``num_tokens=0: must be at least 1``. Whoever typed ``--model.num_tokens 0`` reads
``--model.num_tokens=0: …``, and whoever has it in a recipe ``model.num_tokens=0: … (in recipe.yaml)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

_NAMED = re.compile(r"(?<![\w.\-/=])(?:--)?((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)=")
_ENDS = "'\"`.,;:)]}"
CONFIG_FLAGS = ("--config", "-c")


@dataclass(frozen=True)
class Given:
    """One setting.

    Args:
        key: its whole name, ``model.init.std``.
        value: as text.
        typed: the option by which it was typed; empty where it comes from a file.
        file: where it comes from; empty where it was typed.
    """

    key: str
    value: str
    typed: str = ""
    file: str = ""

    @property
    def display(self) -> str:
        """The name for its user."""
        return self.typed or self.key


def given_settings(argv: Sequence[str]) -> list[Given]:
    """What the arguments say, typed settings first, then those of files, later files first."""
    typed: list[Given] = []
    in_files: list[Given] = []
    for flag, value in options(argv):
        if flag in CONFIG_FLAGS:
            in_files = [*_in_file(value, ""), *in_files]
            continue
        key = plain_key(flag.lstrip("-"))
        typed.append(Given(key, value, typed=flag))
        if value[:1] in "{[" and value:
            typed += [Given(inner, text, typed=flag) for inner, text in _leaves(_loaded(value), key)]
        elif value.endswith((".yaml", ".yml")):
            in_files = [*_in_file(value, key), *in_files]
    return typed[::-1] + in_files


def options(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Flags with their values; a flag that is followed by several has one entry for each."""
    flag, used = "", True
    for argument in [*argv, "--end"]:
        if re.match(r"--?[A-Za-z]", argument):
            if not used:
                yield flag, ""
            flag, equals, value = argument.partition("=")
            used = bool(equals)
            if equals:
                yield flag, value
                flag = ""
        elif flag:
            yield flag, argument
            used = True


def plain_key(key: str) -> str:
    """Without what only files, Python and jsonargparse write: ``model.init.init_args.std`` is ``model.init.std``, and ``from_``
    is ``from``."""
    parts = (part.rstrip("_") for part in key.rstrip("+").split("."))
    return ".".join(part for part in parts if part not in ("init_args", "dict_kwargs"))


def as_typed(message: str, given: Sequence[Given]) -> str:
    """The message with its settings' names as they were given, and with the file that one comes from."""
    files: dict[str, None] = {}

    def name(match: re.Match[str]) -> str:
        if match[0].startswith("--"):
            return match[0]
        rest = message[match.end() :]
        found = _find(match[1], rest, given)
        if found is None:
            return _below(match[1], given) + "="
        if found.file:
            files[found.file] = None
        return f"{found.display}=" + (found.value if rest[:1] in ("", ":", " ") else "")

    text = _NAMED.sub(name, message)
    key = text.removeprefix("--").partition(":")[0]
    typed = any(one.typed and one.key == key for one in given)
    if text.startswith("--") and not typed and (found := next((o for o in given if o.key == key), None)):
        files[found.file] = None
        text = text.removeprefix("--")
    return f"{text} (in {', '.join(files)})" if files else text


def _find(name: str, rest: str, given: Sequence[Given]) -> Given | None:
    """What is called ``name=`` in a message that goes on with ``rest``."""
    name = plain_key(name)
    same = [one for one in given if one.key == name or one.key.endswith(f".{name}")]
    equal = [one for one in same if _is_told(one.value, rest)]
    if not equal and "/" in rest.partition(" ")[0]:  # a path, under the name that its reader has for it
        equal = [one for one in given if _is_told(one.value.rpartition("=")[2], rest)]
    return next(iter(equal or same), None)


def _below(name: str, given: Sequence[Given]) -> str:
    """The name of an option that was not given, of a class that was: ``init.path`` below ``--model.init``."""
    first, dot, rest = name.partition(".")
    above = next((one for one in given if dot and one.typed and one.key.rpartition(".")[2] == first), None)
    return f"{above.display}.{rest}" if above else name


def _is_told(value: str, rest: str) -> bool:
    """Whether the rest of a message begins with the value, or with another way to write the same number."""
    for text in (value, repr(value)):
        if value and rest.lower().startswith(text.lower()) and not rest[len(text) :][:1].isalnum():
            return True
    try:
        return float(value) == float(rest.partition(" ")[0].strip(_ENDS))
    except ValueError:
        return False


def _in_file(path: str, prefix: str) -> list[Given]:
    try:
        content = _loaded(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [Given(key, text, file=path) for key, text in _leaves(content, prefix)]


def _loaded(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _leaves(content: Any, prefix: str, *, depth: int = 0) -> Iterator[tuple[str, str]]:
    if depth > 20:
        return
    if isinstance(content, Mapping):
        for key, value in content.items():
            inner = plain_key(f"{prefix}.{key}" if prefix else str(key))
            yield inner, "" if isinstance(value, Mapping) else str(value)
            yield from _leaves(value, inner, depth=depth + 1)
    elif isinstance(content, list):
        for item in content:
            if isinstance(item, Mapping | list):
                yield from _leaves(item, prefix, depth=depth + 1)
            else:
                yield prefix, str(item)
