"""Files of `torch.save`, looked at before torch reads them: it asks for no checksum, and unpacks whatever is packed."""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any

from lit_cartridges.files.content import named

# Objects that a pickle may come to when everything shared in it is counted where it is used; real ones stay far below.
_MOST_OBJECTS = 10**7
# A file of torch before 1.6 is a row of pickles (two numbers, the machine, the content), then the bare numbers.
PICKLES_IN_A_ROW = 4


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
        if (damaged := archive.testzip()) is not None:
            return f"its part {named(damaged)} is damaged"
        for part in parts:
            if part.filename.endswith("data.pkl") and (why := pickle_problem(archive.read(part))):
                return why
    return None


def pickle_problem(content: bytes) -> str | None:
    """Why a pickle would keep its reader busy for ever, in words; None where it would not. Runs none of it.

    Tuples may hold each other so that few bytes unfold to 2^60 objects, all of which are visited where one is the key of a
    dict. Bytes that are no pickle have no such problem, but others, which the reader says.
    """
    stream = io.BytesIO(content)
    try:
        return next((why for _ in range(PICKLES_IN_A_ROW) if (why := _unfolded(stream))), None)
    except Exception:  # whatever pickletools makes of bytes that are no opcodes
        return None


def _unfolded(stream: io.BytesIO) -> str | None:
    """Follows one pickle with the number of objects in place of each object."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        before = [kind.name for kind in opcode.stack_before]
        if opcode.name == "MARK":
            marks.append(len(stack))
        elif "PUT" in opcode.name:
            memo[int(argument or 0)] = stack[-1]
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif "GET" in opcode.name:
            stack.append(memo[int(argument or 0)])
        else:
            first = marks.pop() - before.index("mark") if "mark" in before else len(stack) - len(before)
            objects = 1 + sum(stack[first:])
            if objects > _MOST_OBJECTS:
                return f"its pickle unfolds to more than {_MOST_OBJECTS:,} objects"
            stack[first:] = [objects] * len(opcode.stack_after)
    return None
