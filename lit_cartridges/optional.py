"""What comes with an extra: its name for a module that is missing, as the package's own metadata says it."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import distributions
from importlib.util import find_spec

from lit_cartridges.errors import CartridgesError

_NOT_FOR_USERS = ("test", "bench")


class MissingExtraError(CartridgesError, ImportError):
    """What was asked for needs an extra that is not installed; the message has the command that installs it."""


def hint(module: str | None) -> str | None:
    """``pip install …`` for a module that an extra brings, and None for any other."""
    extra = _extras().get((module or "").partition(".")[0])
    return None if extra is None else f"pip install 'lit_cartridges[{extra}]'"


def require_modules(*modules: str) -> None:
    """
    Raises:
        MissingExtraError: one of these modules, which extras bring, is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtraError(f"{module} is not installed; {hint(module) or f'pip install {module}'}")


@cache
def _extras() -> dict[str, str]:
    """The extra of each module; of two, the one named first in pyproject.toml."""
    found: dict[str, str] = {}
    # Several, where building has left a folder of metadata beside the source.
    lines = [line for known in distributions(name="lit_cartridges") for line in known.requires or ()]
    for line in lines:
        match = re.match(r"([\w-]+).*;.*extra == ['\"]([\w-]+)['\"]", line)
        if match and match[2] not in _NOT_FOR_USERS:
            found.setdefault(match[1].replace("-", "_"), match[2])
    return found
