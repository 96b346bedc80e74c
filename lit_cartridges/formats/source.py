"""A path as the user gives it: here, or on the Hub."""

from __future__ import annotations

from pathlib import Path

from lit_cartridges.cartridge_files import CartridgeFileError


def local_copy(name: str) -> Path:
    """The path ``name``, or the Hub repository of that name, of which the files of the formats are downloaded.

    Raises:
        CartridgeFileError: it is neither.
    """
    path = Path(name)
    if path.exists() or len(path.parts) != 2 or name.startswith((".", "/", "~")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    from lit_cartridges.formats import FORMATS  # whose making imports this file

    files = sorted({pattern for known in FORMATS.values() for pattern in known.files})
    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise CartridgeFileError(f"{name!r} is no path here, and the Hub has none for us: {error}") from error
