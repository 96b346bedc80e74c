"""Files of `torch.save`, looked at before torch reads them: it asks for no checksum, and unpacks whatever is packed."""

from __future__ import annotations

import zipfile
from pathlib import Path

from lit_cartridges.file_content import named


def archive_problem(file: Path) -> str | None:
    """Why a zip archive is not a whole one of torch's, in words; None where it is. Reads it once, checksums included.

    torch writes each part once and unpacked, so that all parts together take less room than the file.
    """
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            return "its parts are packed, which torch never does"
        if len({part.filename for part in parts}) < len(parts):
            return "it holds two parts of one name"
        if sum(part.file_size for part in parts) > file.stat().st_size:
            return "its parts claim to be larger than the file"
        damaged = archive.testzip()
    return None if damaged is None else f"its part {named(damaged)} is damaged"
