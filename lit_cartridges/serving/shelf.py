"""The folder whose cartridges are served: names, files, and what their headers say.

A name is a direct child of the folder: that child holds ``cartridge.safetensors``, or ``cartridge/cartridge.safetensors`` as a
run's folder does. The folder is looked at anew for every request, so that what is added, replaced or removed is so at once; a
header is read again only where its file has changed. The tensors are checked where they are loaded (see `Residents`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from lit_cartridges.cartridge_files.facts import CartridgeFacts
from lit_cartridges.cartridge_files.folder import TENSORS, CartridgeFileError, read_header
from lit_cartridges.errors import SettingError
from lit_cartridges.provenance import Provenance
from lit_cartridges.serving.refusals import Refusal

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PLACES = (Path("cartridge") / TENSORS, Path(TENSORS))
_MOST_NAMES = 20  # in a message

Stamp = tuple[int, int, int]
"""Inode, size and time of a file: another file under the same name has another."""


@dataclass(frozen=True, kw_only=True)
class Shelved:
    """A cartridge on the shelf, of which the header has been read.

    Args:
        folder: as `Cartridge.from_pretrained` takes it.
        made_s: when the file was written, in seconds of Unix time.
    """

    name: str
    folder: Path
    stamp: Stamp
    made_s: int
    provenance: Provenance
    facts: CartridgeFacts


class Shelf:
    """See the module; threads may share one.

    Args:
        refuses: why a cartridge cannot be read by the model that is served, or None where it can; by default all can.
    """

    def __init__(self, folder: Path, *, refuses: Callable[[Shelved], str | None] | None = None) -> None:
        self.folder, self.refuses = folder.resolve(), refuses or (lambda shelved: None)
        self._known: dict[str, tuple[Stamp, Shelved | str]] = {}
        self._told: set[tuple[str, Stamp]] = set()
        self._lock = Lock()

    def all(self) -> list[Shelved]:
        """Those that can be served, by name; of each of the others the log says once why it cannot."""
        found = []
        for name in self.names():
            try:
                found.append(self.find(name))
            except Refusal as refusal:
                self._tell(name, refusal)
        return found

    def names(self) -> list[str]:
        """Of all that looks like a cartridge."""
        try:
            children = sorted(child.name for child in self.folder.iterdir())
        except OSError:
            return []
        return [name for name in children if self._file(name) is not None]

    def find(self, name: str) -> Shelved:
        """The cartridge of this name.

        Raises:
            Refusal: there is none (404), or it is none that can be served (400).
        """
        file = self._file(name)
        try:
            stamp = None if file is None else stamp_of(file)
        except OSError:
            stamp = None
        if file is None or stamp is None:
            raise self.unknown(name)
        with self._lock:
            known = self._known.get(name)
            if known is None or known[0] != stamp:
                known = self._known[name] = stamp, self._read(name, file, stamp)
        if isinstance(known[1], str):
            raise Refusal(
                f"the cartridge {name!r} cannot be served: {known[1]}", param="model", code="bad_cartridge"
            )
        return known[1]

    def is_there(self, name: str) -> bool:
        """Whether something that looks like a cartridge has this name."""
        return self._file(name) is not None

    def unknown(self, name: str) -> Refusal:
        """What is said of a name that is not there."""
        names = self.names()
        more = "" if len(names) <= _MOST_NAMES else f" and {len(names) - _MOST_NAMES} more"
        told = ", ".join(names[:_MOST_NAMES]) + more if names else "none"
        return Refusal(
            f"there is no cartridge {name[:80]!r} here; there are: {told}. a+b composes two, and GET /v1/models lists all",
            status=404,
            param="model",
            code="model_not_found",
        )

    def plainly(self, error: object) -> str:
        """The error's text without the path of the folder, which is nobody's business outside."""
        return str(error).replace(f"{self.folder}/", "").replace(str(self.folder), "the folder")

    def _file(self, name: str) -> Path | None:
        """The file of a name, which no name can lead out of the folder; None where there is none."""
        if not _NAME.fullmatch(name):
            return None
        for place in _PLACES:
            try:
                file = (self.folder / name / place).resolve(strict=True)
            except (OSError, RuntimeError):  # not there, or links in a circle
                continue
            if file.is_file() and file.is_relative_to(self.folder):
                return file
        return None

    def _read(self, name: str, file: Path, stamp: Stamp) -> Shelved | str:
        try:
            description, content = read_header(file)
            shelved = Shelved(
                name=name,
                folder=file.parent,
                stamp=stamp,
                made_s=int(file.stat().st_mtime),
                provenance=description.provenance,
                facts=CartridgeFacts.of(content),
            )
            why = self.refuses(shelved)
        except (CartridgeFileError, OSError) as error:
            why = self.plainly(error)
        return shelved if why is None else why

    def _tell(self, name: str, refusal: Refusal) -> None:
        known = self._known.get(name)
        if known is not None and (name, known[0]) not in self._told:
            self._told.add((name, known[0]))
            _log.warning("%s", refusal.message)


def stamp_of(file: Path) -> Stamp:
    """See `Stamp`."""
    known = file.stat()
    return known.st_ino, known.st_size, known.st_mtime_ns


def base_models(shelved: list[Shelved]) -> dict[str, list[str]]:
    """The names of the cartridges of each base model."""
    found: dict[str, list[str]] = {}
    for one in shelved:
        if one.facts.base_model:
            found.setdefault(one.facts.base_model, []).append(one.name)
    return found


def served_as(model: str) -> str:
    """A model's name in requests: a Hub id or that in a package, and of a folder the last part of its path."""
    if model.startswith("package:"):
        return model.removeprefix("package:")
    path = Path(model)
    return path.resolve().name if path.is_dir() else model


def require_one_base(shelved: list[Shelved]) -> None:
    """Raise SettingError where the shelf holds cartridges of several models, and none was named."""
    found: dict[str, Any] = base_models(shelved)
    if len(found) > 1:
        told = "; ".join(f"{model}: {', '.join(names[:_MOST_NAMES])}" for model, names in found.items())
        raise SettingError(
            f"the folder holds cartridges of {len(found)} models ({told}); name one with --model, whose cartridges are "
            "then served"
        )
