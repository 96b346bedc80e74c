"""Other systems' cartridge files: `FORMATS` by name, and `format_of` to tell which one a path holds."""

from __future__ import annotations

from pathlib import Path

from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.cartridge_files.folder import here_or_downloaded
from lit_cartridges.formats.cartridge_format import CartridgeFormat
from lit_cartridges.formats.lit_format import LitFormat
from lit_cartridges.formats.source import with_base_model
from lit_cartridges.found_classes import found_classes

__all__ = ["FORMATS", "CartridgeFormat", "format_of", "local_copy", "named_format", "with_base_model"]

# In the order of asking: our own folders, then the others by the names of their files.
_FOUND = sorted(found_classes(__name__, CartridgeFormat).values(), key=lambda kind: kind is not LitFormat)
FORMATS: dict[str, CartridgeFormat] = {kind.name: kind() for kind in _FOUND}


def named_format(name: str) -> CartridgeFormat:
    """The format of that name.

    Raises:
        ValueError: there is none; the message lists them.
    """
    if name not in FORMATS:
        raise ValueError(f"format {name!r} is not known; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def local_copy(name: str) -> Path:
    """The path ``name``, or the Hub repository of that name, of which the files of the formats are downloaded (errors as
    `here_or_downloaded`)."""
    return here_or_downloaded(name, sorted({file for known in FORMATS.values() for file in known.files}))


def format_of(path: Path) -> CartridgeFormat:
    """The format whose files lie at ``path``.

    Raises:
        CartridgeFileError: nothing there, or nothing that a format recognises; the message says what each looks like.
    """
    for known in FORMATS.values():
        if known.recognises(path):
            return known
    looks = "; ".join(f"{known.name}: {known.looks}" for known in FORMATS.values())
    what = "holds no cartridge that is recognised" if path.exists() else "does not exist"
    raise CartridgeFileError(f"{path} {what}; formats are {looks}")
