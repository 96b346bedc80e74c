"""Errors that explain themselves: their message is for the user, who needs no traceback beside it."""

from __future__ import annotations

import dis
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_MOST_CHARACTERS = 120
_VERBS = ("must ", "needs ", "is ", "cannot ", "holds ")


class CartridgesError(Exception):
    """Base of this package's errors: the message names a setting or a file, its value, and what would work."""


class DetailedError(CartridgesError):
    """One with more to show.

    Args:
        details: lines, such as the end of a log, which the commands show below the message.
    """

    def __init__(self, headline: str, *, details: str = "") -> None:
        self.headline, self.details = headline, details
        super().__init__(f"{headline}:\n{details}" if details else headline)


class SettingError(CartridgesError, ValueError):
    """Settings that cannot work, as ``name=value why``; the command line says their names as they were typed.

    Args:
        why: what is wrong with them and what would work.
        settings: the settings with their values; names may have dots.
    """

    def __init__(self, why: str, settings: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        self.why, self.settings = why, {**(settings or {}), **more}
        named = ", ".join(f"{name}={shown(value)}" for name, value in self.settings.items())
        super().__init__(sentence(named, why) if named else why)


@contextmanager
def called(setting: str, path: object) -> Iterator[None]:
    """A body whose errors call ``path`` what the user calls it, where its reader only knows that it is a path."""
    try:
        yield
    except CartridgesError as error:
        told = f"path={str(path)!r}"
        if not str(error).startswith(told):
            raise
        raise type(error)(f"{setting}={str(path)!r}{str(error).removeprefix(told)}") from error


def sentence(named: str, why: str) -> str:
    """``named why`` where ``why`` goes on with a verb, and ``named: why`` elsewhere."""
    return f"{named}{' ' if why.startswith(_VERBS) else ': '}{why}"


def shown(value: object) -> str:
    """A value on one line, without control characters, cut where it is long."""
    text = repr(str(value)) if isinstance(value, str | Path) else " ".join(repr(value).split())
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def is_ours(error: BaseException) -> bool:
    """Whether its message is meant for the user: one of our classes, or raised by a ``raise`` in our own code.

    A ``ValueError`` that a library raises, or that Python raises in a line of ours (``int("x")``), is not.
    """
    kinds = (ValueError, RuntimeError, OSError, FloatingPointError)
    return isinstance(error, CartridgesError) or (isinstance(error, kinds) and raised_by(error, _PACKAGE))


def raised_by(error: BaseException, package: str) -> bool:
    """Whether a ``raise`` in the package's own code has raised it."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or str(last.tb_frame.f_globals.get("__package__")).partition(".")[0] != package:
        return False
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
