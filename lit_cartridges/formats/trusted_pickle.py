"""Reading a pickle that the user has asked for by name, without letting it run anything.

A pickle is a program: whatever callable it names, the usual loader calls. Here torch's weights-only loader reads it, with
`torch.nn.ParameterList` as the one class beyond tensors and plain containers; a file that names another is refused
before anything of it is called.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.cartridge_files.description import DTYPES
from lit_cartridges.files.content import one_line
from lit_cartridges.files.torch_archive import PICKLES_IN_A_ROW, archive_problem, pickle_problem

# What a file of tensors and parameter lists names; used to tell the odd ones in an error message, and for nothing else.
_USUAL = (
    "torch._utils._rebuild_",
    "torch.nn.modules.container.ParameterList",
    "collections.OrderedDict",
    "__builtin__.set",
    "builtins.set",
)
# Names for the same tensor are usual, such as a frozen pair of zeros for all layers; a file of nothing else is not.
_MOST_SHARED = 4


def load_pickle(file: Path, *, trust_pickle: bool) -> Any:
    """The content of ``file``, written by `torch.save`, on the CPU.

    Raises:
        CartridgeFileError: no such file, truncated, damaged, not trusted, or a pickle that needs another class.
    """
    if not file.is_file():
        raise CartridgeFileError(f"{file} is not there")
    if not trust_pickle:
        raise CartridgeFileError(
            f"{file} is a pickle, which is read only when asked for: give --trust_pickle (trust_pickle=True). It is then "
            "read by torch's weights-only loader, which refuses everything but tensors"
        )
    try:
        if why := archive_problem(file) if zipfile.is_zipfile(file) else pickle_problem(file.read_bytes()):
            raise CartridgeFileError(f"{file} is damaged, or no file of torch.save: {why}")
        with torch.serialization.safe_globals([nn.ParameterList]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except CartridgeFileError:
        raise
    except Exception as error:  # the loader lets any exception of a broken file through, IndexError included
        if names := _unusual(file):
            raise CartridgeFileError(
                f"{file} is refused: it is a pickle that asks for {one_line(', '.join(names))}, and a cartridge needs only "
                "tensors and torch.nn.ParameterList; nothing of it was run. Do not load it by other means"
            ) from error
        # torch's own message advises to load the file without its care, so it is not passed on.
        raise CartridgeFileError(
            f"{file} is truncated, or no file of torch.save ({type(error).__name__})"
        ) from error


def require_held(tensors: Iterable[Tensor], file: Path) -> None:
    """Refuse tensors that are no plain numbers in ``file``: sparse, quantised, complex, or views larger than what is stored.

    Raises:
        CartridgeFileError: naming the file and what is wrong.
    """
    total_bytes = 0
    for x in tensors:
        kind = str(x.dtype).removeprefix("torch.")
        if type(x) not in (Tensor, nn.Parameter) or x.layout != torch.strided or x.device.type != "cpu":
            raise CartridgeFileError(
                f"{file} holds a tensor of layout {x.layout} on {x.device}, not plain numbers"
            )
        if x.dtype not in DTYPES:
            raise CartridgeFileError(f"{file} holds a tensor of {kind}, which no key or value is")
        if x.nbytes > x.untyped_storage().nbytes():
            raise CartridgeFileError(
                f"{file} holds a tensor {list(x.shape)} of {x.nbytes:,} bytes that are a view of "
                f"{x.untyped_storage().nbytes():,}: its numbers are not in the file"
            )
        total_bytes += x.nbytes
    if total_bytes > _MOST_SHARED * file.stat().st_size:
        raise CartridgeFileError(
            f"{file} has {file.stat().st_size:,} bytes and asks for {total_bytes:,}: its tensors are one and the same"
        )


def _unusual(file: Path) -> list[str]:
    """The classes and functions that the pickle names and no cartridge needs, by reading its opcodes and running none."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                parts = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
        else:
            parts = [file.read_bytes()]
    except Exception:  # a damaged archive: nothing is known of it
        return []
    names = {name for part in parts for name in _globals(part)}
    return sorted(name for name in names if not name.startswith(_USUAL) and "Storage" not in name)


def _globals(content: bytes) -> Iterator[str]:
    stream, strings = io.BytesIO(content), [""]
    try:
        for _ in range(PICKLES_IN_A_ROW):
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
    except Exception:  # whatever pickletools makes of bytes that are no opcodes
        return  # cut short or no pickle: what was found so far is all there is to tell
