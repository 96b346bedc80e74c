"""What others wrote, on a terminal: replies, names and errors without anything that would drive it.

A model, a corpus or a file may hold escape sequences, which move the cursor, set the title or answer for the user, carriage
returns that overwrite a line, and overrides of the reading direction that show it otherwise than it is. Each such character
is shown as its code, one by one, so that a sequence that comes in two pieces is nothing special.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
import warnings
from types import TracebackType
from typing import Any

# Control characters but for tab and line break, separators that some terminals break lines at, embeddings, overrides and
# isolates of the reading direction, deprecated and interlinear format characters, and halves of surrogate pairs.
_DRIVING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]", re.ASCII
)


def printable(text: object) -> str:
    """The text of ``text``, whose every character stays on the terminal; line breaks and tabs are kept."""
    return _DRIVING.sub(_code, str(text).replace("\r\n", "\n"))


def printable_line(text: object) -> str:
    """The same on one line: for names, and for the cells of a table."""
    return printable(re.sub(r"\s*[\t\r\n]\s*", " ", str(text)))


def guard_terminal() -> None:
    """Make logs, warnings and tracebacks of this process printable; for a program of its own, not for a library."""
    if isinstance(warnings.formatwarning, _PrintableWarning):
        return
    warnings.formatwarning = _PrintableWarning(warnings.formatwarning)
    logging.setLogRecordFactory(_PrintableRecord)
    sys.excepthook = _print_exception


class _PrintableRecord(logging.LogRecord):
    def getMessage(self) -> str:
        return printable(super().getMessage())


class _PrintableWarning:
    def __init__(self, formatwarning: Any) -> None:
        self.formatwarning = formatwarning

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        return printable(self.formatwarning(*args, **kwargs))


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(printable("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _code(match: re.Match[str]) -> str:
    number = ord(match.group())
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
