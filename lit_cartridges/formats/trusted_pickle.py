"""Reading a pickle that the user has asked for by name, without letting it run anything.

A pickle is a program: whatever callable it names, the usual loader calls. Here torch's weights-only loader reads it, with
`torch.nn.ParameterList` as the one class beyond tensors and plain containers; a file that names another is refused
before anything of it is called.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_cartridges.cartridge_files import CartridgeFileError

# What a file of tensors and parameter lists names; used to tell the odd ones in an error message, and for nothing else.
_USUAL = (
    "torch._utils._rebuild_",
    "torch.nn.modules.container.ParameterList",
    "collections.OrderedDict",
    "__builtin__.set",
    "builtins.set",
)
# A file of torch before 1.6 is a row of pickles (two numbers, the machine, the content), then the bare numbers.
_PICKLES_IN_A_ROW = 4


def load_pickle(file: Path, *, trust_pickle: bool) -> Any:
    """The content of ``file``, written by `torch.save`, on the CPU.

    Raises:
        CartridgeFileError: no such file, truncated, not trusted, or a pickle that needs another class.
    """
    if not file.is_file():
        raise CartridgeFileError(f"{file} is not there")
    if not trust_pickle:
        raise CartridgeFileError(
            f"{file} is a pickle, which is read only when asked for: give --trust-pickle (trust_pickle=True). It is then "
            "read by torch's weights-only loader, which refuses everything but tensors"
        )
    try:
        with torch.serialization.safe_globals([nn.ParameterList]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the loader lets any exception of a broken file through, IndexError included
        names = sorted(
            {name for name in _names(file) if not name.startswith(_USUAL) and "Storage" not in name}
        )
        if names:
            raise CartridgeFileError(
                f"{file} is refused: it is a pickle that asks for {', '.join(names)}, and a cartridge needs only "
                "tensors and torch.nn.ParameterList; nothing of it was run. Do not load it by other means"
            ) from error
        # torch's own message advises to load the file without its care, so it is not passed on.
        raise CartridgeFileError(
            f"{file} is truncated, or no file of torch.save ({type(error).__name__})"
        ) from error


def _names(file: Path) -> list[str]:
    """The classes and functions that the pickle names, found by reading its opcodes and running none."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            parts = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    else:
        parts = [file.read_bytes()]
    return [name for part in parts for name in _globals(part)]


def _globals(content: bytes) -> Iterator[str]:
    stream, strings = io.BytesIO(content), [""]
    try:
        for _ in range(_PICKLES_IN_A_ROW):
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, IndexError):
        return  # cut short or no pickle: what was found so far is all there is to tell
