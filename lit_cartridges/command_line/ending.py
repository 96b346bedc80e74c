"""How a command ends: its status, and what it says where it cannot do its work.

Bad settings and errors of ours: one line, and their details below it, status 2. Ctrl-C: 130. Anything else is a fault: it keeps
its traceback, and Python ends with status 1. ``--debug``, anywhere among the arguments, shows the traceback of the former too.
"""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NoReturn

from lit_cartridges.command_line.given import as_typed, given_settings
from lit_cartridges.errors import DetailedError, SettingError, is_ours, raised_by
from lit_cartridges.optional import hint

DEBUG = "--debug"
_MOST_CHARACTERS = 2000
_WRAPPED = "Does not validate against any of the Union subtypes"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Errors of the operating system that are about the user's own file, disk or rights.
_USERS = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.EFBIG,
}


@dataclass(frozen=True)
class _Running:
    """The command that this process runs: what stands in front of its messages, and its arguments."""

    prog: str = "lit-cartridges"
    argv: tuple[str, ...] = ()
    debug: bool = False
    flags: set[str] = field(default_factory=set)


_running: ContextVar[_Running | None] = ContextVar("running", default=None)


def run_command(prog: str, argv: Sequence[str], function: Callable[[list[str]], object]) -> None:
    """Call ``function`` with the arguments, and end as this module says."""
    with command(prog, argv) as left:
        function(left)


@contextmanager
def command(prog: str, argv: Sequence[str]) -> Iterator[list[str]]:
    """The same for a body; gives the arguments without ``--debug``."""
    left = [argument for argument in argv if argument != DEBUG]
    token = _running.set(_Running(prog, tuple(left), debug=len(left) < len(argv)))
    try:
        _refuse_empty_values(left)
        yield left
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        # jsonargparse wraps what a constructor raises where a setting may be one of several types.
        ours = next((one for one in (error, *causes(error)) if _is_for_the_user(one)), None)
        if ours is None or (ours is not error and not str(error).startswith(_WRAPPED)):
            raise
        refuse(_message(ours), error)
    finally:
        _running.reset(token)


def known_flags() -> set[str]:
    """Options that the running command takes beside those of the parser that meets an unknown one."""
    running = _running.get()
    return set() if running is None else running.flags


def refuse(message: str, error: BaseException | None = None) -> NoReturn:
    """Print the message as one line, with the settings' names as the user typed them, and end with status 2."""
    running = _running.get() or _Running()
    if running.debug and error is not None:
        traceback.print_exception(error)
    details = error.details if isinstance(error, DetailedError) else ""
    text = as_typed(message.removesuffix(details), given_settings(running.argv))
    print(one_line(f"{running.prog}: {text}"), file=sys.stderr)
    for line in details.splitlines():
        print(f"  {_UNPRINTABLE.sub(' ', line)}", file=sys.stderr)
    raise SystemExit(2) from error


def one_line(text: str) -> str:
    """Without line breaks and control characters, and no longer than a few lines of a terminal."""
    text = _UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", " ".join(text.split()))
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def causes(error: BaseException) -> Iterator[BaseException]:
    """What an error was raised from or while handling, the nearest first; such a chain may lead back into itself."""
    seen = {id(error)}
    while (cause := error.__cause__ or error.__context__) is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        error = cause


def _is_for_the_user(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _USERS and (error.filename or is_ours(error)):
        return True
    if isinstance(error, ModuleNotFoundError) and hint(error.name):
        return True
    if is_ours(error) or type(error).__name__ == "MisconfigurationException":
        return True
    # What Lightning has to say: a figure that nobody logs, a package that is missing.
    kinds = (RuntimeError, ValueError, ImportError, AttributeError, TypeError)
    return isinstance(error, kinds) and raised_by(error, "lightning")


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror.lower()}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"needs {error.name}, which is not installed; {hint(error.name)}"
    return str(error)


def _refuse_empty_values(argv: Sequence[str]) -> None:
    """Where a path is expected, an empty text would mean the current folder."""
    for place, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if not argument.strip():
            flag = argv[place - 1] if place and argv[place - 1].startswith("-") else "an argument"
        elif not (equals and flag.startswith("-") and not value.strip()):
            continue
        raise SettingError(f"{flag}: must not be empty")
