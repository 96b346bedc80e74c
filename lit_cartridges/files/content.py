"""What a file says, read without trust: JSON and records of plain types, and errors that take one line."""

from __future__ import annotations

import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_LARGEST = 2**63  # one more than a whole number in any of our files may be: what an int64 holds


def one_line(error: object, most: int = 300) -> str:
    """The text of an error, or of any object, on one line of at most ``most`` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[: most - 1] + "…"


def named(value: Any) -> str:
    """A value for an error message: numbers and short texts as they are, all else by its kind."""
    plain = value is None or isinstance(value, (bool, int, float, str))
    return one_line(repr(value), 60) if plain else f"a {type(value).__name__}"


def parse_json(text: str | bytes, *, strict: bool = True) -> Any:
    """The value that ``text`` holds.

    Args:
        text: JSON, in UTF-8 where it is bytes.
        strict: also refuse numbers that are not finite, and text that is no Unicode (half a surrogate pair).

    Raises:
        ValueError: it is no JSON, is nested beyond Python's depth, or holds a number of thousands of digits.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        if not strict:
            return json.loads(text)
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds text that is no Unicode (half a surrogate pair)") from error
    except ValueError as error:
        raise ValueError(one_line(error)) from error


def is_text(value: Any) -> bool:
    """Whether it is a string that can be written as UTF-8; JSON can spell others."""
    try:
        return isinstance(value, str) and value.encode("utf-8") is not None
    except UnicodeEncodeError:
        return False


def whole_number(value: Any, name: str, *, least: int = 0, below: int = _LARGEST) -> int:
    """``value``, a whole number of at least ``least`` and less than ``below``.

    Raises:
        ValueError: it is not; the message names ``name``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < below:
        most = "" if below == _LARGEST else f" to {below - 1}"
        raise ValueError(f"{name} must be a whole number from {least}{most or ' up'}, found {named(value)}")
    return value


def record(kind: type[T], value: Any, name: str) -> T:
    """The dataclass ``kind`` out of a JSON object; its annotations say which types its fields have.

    Raises:
        ValueError: no object, an unknown or a missing field, or one of another type; the message names it.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, found {named(value)}")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(value) - set(known)):
        raise ValueError(f"{name} has fields that this release does not know: {one_line(unknown)}")
    for field in known.values():
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{name} has no {field.name}")
    hints = get_type_hints(kind)
    return kind(**{key: _typed(x, hints[key], f"{name}.{key}") for key, x in value.items()})


def _typed(value: Any, hint: Any, name: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _typed(value, next(x for x in inner if x is not type(None)), name)
    if is_dataclass(hint) and isinstance(hint, type):
        return record(hint, value, name)
    if hint is int:
        return whole_number(value, name)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(origin, type):
        if origin is tuple and isinstance(value, list):
            value = tuple(value)
        if isinstance(value, dict) and isinstance(value, origin) and inner:
            return {key: _typed(x, inner[1], f"{name}[{key!r}]") for key, x in value.items()}
        if isinstance(value, (list, tuple)) and isinstance(value, origin) and inner:
            return type(value)(_typed(x, inner[0], f"{name}[{i}]") for i, x in enumerate(value))
        hint = origin
    if isinstance(hint, type) and hint is not float and isinstance(value, hint):
        return value
    raise ValueError(f"{name} must be {getattr(hint, '__name__', hint)}, found {named(value)}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no finite number")
