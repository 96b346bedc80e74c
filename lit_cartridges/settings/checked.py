"""`checked`: a constructor or command that refuses a value which its signature does not allow, by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields
from functools import cache, wraps
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from lit_cartridges.errors import SettingError
from lit_cartridges.settings.checks import Check

P = ParamSpec("P")
R = TypeVar("R")
_PLAIN = (str, Path, bytes, bool, int, float, complex, Mapping, Sequence, Set)
_NOUNS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
    Path: "a path",
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Look at the given arguments first; a default is right as it is.

    Raises:
        SettingError: from the function: one is not of its type, is blank, is not finite, or fails a `Check`.
    """
    parameters = inspect.signature(function).parameters
    in_order = [name for name, one in parameters.items() if one.kind is not one.KEYWORD_ONLY]

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        hints = type_hints(function)
        for name, value in {**dict(zip(in_order, args, strict=False)), **kwargs}.items():
            if name in parameters and name in hints:
                require(name, value, hints[name], default=parameters[name].default)
        return function(*args, **kwargs)

    return run


def check_fields(instance: Any) -> None:
    """The same for a dataclass, in its ``__post_init__``."""
    owner: Any = type(instance)
    hints = type_hints(owner)
    for field in fields(instance):
        require(field.name, getattr(instance, field.name), hints[field.name], default=field.default)


def require(name: str, value: Any, hint: Any, *, default: Any = inspect.Parameter.empty) -> None:
    """
    Raises:
        SettingError: the value is neither the default nor what ``hint`` allows.
    """
    if value is default or (type(value) is type(default) and value == default):
        return
    if (why := problem(value, hint)) is not None:
        raise SettingError(why, {name: value})


@cache
def type_hints(annotated: Any) -> dict[str, Any]:
    """The annotations of a function or class, with their checks."""
    return get_type_hints(annotated, include_extras=True)


def problem(value: Any, hint: Any) -> str | None:
    """What the value must be, or None where it is that."""
    if not fits_type(value, hint):
        return f"must be {described(hint)}"
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        found = (check.problem(value) for check in inner[1:] if isinstance(check, Check))
        return problem(value, inner[0]) or next((why for why in found if why), None)
    if origin in (Union, UnionType):
        found_in = [problem(value, option) for option in inner if fits_type(value, option)]
        return None if None in found_in else found_in[0]
    if isinstance(value, Real) and hint is float and not isfinite(value):
        return "must be a finite number"
    if isinstance(value, str) and hint in (str, Path) and not value.strip():
        return "must not be empty"
    if isinstance(value, Mapping) and origin is not None and len(inner) == 2:
        return _first(problem(item, inner[1]) for item in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str) and origin is not None:
        return _first(
            problem(item, option) for item, option in zip(value, _items(inner, len(value)), strict=True)
        )
    return None


def fits_type(value: Any, hint: Any) -> bool:
    """Whether the value is of that type, whatever the checks say."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        return fits_type(value, inner[0])
    if origin in (Union, UnionType):
        return any(fits_type(value, option) for option in inner)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in inner)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str | Path)
    if hint in (str, bool, NoneType):
        return isinstance(value, hint)
    if origin is tuple and Ellipsis not in inner:
        return isinstance(value, Sequence) and len(value) == len(inner) and all(map(fits_type, value, inner))
    if isinstance(origin, type) and issubclass(origin, Sequence | tuple):
        items_fit = isinstance(value, Sequence) and not isinstance(value, str)
        return items_fit and all(map(fits_type, value, _items(inner, len(value))))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits_type(item, inner[1]) for item in value.values())
    if isinstance(hint, type):
        return isinstance(value, hint) or not (value is None or isinstance(value, _PLAIN))
    return True


def described(hint: Any) -> str:
    """The type in words: "a whole number, or null"."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return described(inner[0])
    if origin in (Union, UnionType):
        return ", or ".join(described(option) for option in inner)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in inner)
    if origin is tuple and Ellipsis not in inner:
        return f"{len(inner)} values: " + ", ".join(described(option) for option in inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping to {described(inner[1])}"
    if origin is not None:
        return f"a list, each {described(inner[0])}" if inner else "a list"
    return _NOUNS.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def _items(inner: tuple[Any, ...], count: int) -> Sequence[Any]:
    fixed = inner and Ellipsis not in inner and len(inner) > 1
    return inner if fixed else [inner[0] if inner else Any] * count


def _first(problems: Any) -> str | None:
    return next((why for why in problems if why), None)
