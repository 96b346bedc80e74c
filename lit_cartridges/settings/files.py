"""Checks of paths: that what is read is there, and that what will be written can be."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from lit_cartridges.settings.checks import Check

HUB_DATASET = re.compile(
    r"hf:/{1,2}datasets/(?P<name>[^/:]+/[^/:]+)(?:/(?P<config>[^/:]+))?(?::(?P<split>[^/:]+))?"
)
HUB_FORM = "hf://datasets/OWNER/NAME, with /CONFIG and :SPLIT behind it where it has several"


@dataclass(frozen=True)
class Existing(Check):
    """A path from which something is read.

    Args:
        kind: "file", "folder", or "path" for either.
        holding: a file that the folder must have.
        home: a leading ~ is the user's home, for those who read it so.
        hub: an address on the Hub will do as well.
    """

    kind: str = "path"
    holding: str = ""
    home: bool = False
    hub: bool = False

    def problem(self, value: Any) -> str | None:
        """See `Check.problem`."""
        if self.hub and on_hub(value):
            return None if HUB_DATASET.fullmatch(str(value)) else f"must be {HUB_FORM}"
        path = at_home(value) if self.home else Path(value)
        try:
            if not path.exists() and str(value).startswith("{"):
                return "is no path, and no class can be made of this"
            if not path.exists():
                return f"there is no such {'file or folder' if self.kind == 'path' else self.kind}"
            if self.kind == "file" and path.is_dir():
                return "is a folder; give a file"
            if self.kind == "folder" and not path.is_dir():
                return "is a file; give a folder"
            if self.holding and not (path / self.holding).is_file():
                return f"the folder holds no {self.holding}"
            if path.is_dir():
                os.listdir(path)
            elif path.is_file():
                path.open("rb").close()
            else:
                return "is no regular file"
        except (OSError, ValueError) as error:
            return f"cannot be read ({_reason(error)})"
        return None


@dataclass(frozen=True)
class Writable(Check):
    """A path that will be written. It is tried: what the trial makes is removed again, what was there stays as it is.

    Args:
        kind: "file", "folder", or "path" for either.
        suffix: how a file's name must end.
    """

    kind: str = "file"
    suffix: str = ""

    def problem(self, value: Any) -> str | None:
        """See `Check.problem`."""
        path = Path(value)
        try:
            if "\0" in str(value):
                return "cannot be written (a null character is in it)"
            if self.kind == "file" and (path.is_dir() or str(value).endswith(os.sep)):
                return f"is a folder; give a file{f' that ends in {self.suffix}' if self.suffix else ''}"
            if self.suffix and path.suffix != self.suffix:
                return f"must end in {self.suffix}"
            if self.kind == "folder" and path.exists() and not path.is_dir():
                return "is a file; give a folder"
            if path.exists() and not path.is_file() and not path.is_dir():
                return "is no regular file"
            if path.is_file():
                path.open("ab").close()
            _try_to_write(path if self.kind == "folder" or path.is_dir() else path.parent)
        except (OSError, ValueError) as error:
            return f"cannot be written ({_reason(error)})"
        return None


def at_home(path: str | Path) -> Path:
    """The path with a leading ~ as the user's home; one that names no user stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def on_hub(path: str | Path) -> bool:
    """Whether this is an address on the Hub, of which a `Path` keeps one slash."""
    return str(path).startswith("hf:/")


def _try_to_write(folder: Path) -> None:
    """Make a file in the folder, and the folder where it is missing; then remove both."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    probe = folder / f".{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.open("xb").close()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
        for place in missing:
            with suppress(OSError):
                place.rmdir()


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


ReadModelFolder = Annotated[str, Existing("folder", "config.json")]
ReadPath = Annotated[Path, Existing()]
ReadFolder = Annotated[Path, Existing("folder")]
ReadCorpus = Annotated[Path, Existing(home=True, hub=True)]
ReadFile = Annotated[Path, Existing("file")]
ReadFileName = Annotated[str, Existing("file")]
ReadName = Annotated[str, Existing()]
WritePath = Annotated[Path, Writable("path")]
WriteFolder = Annotated[Path, Writable("folder")]
WriteFolderName = Annotated[str, Writable("folder")]
WriteJson = Annotated[Path, Writable("file", ".json")]
WriteJsonName = Annotated[str, Writable("file", ".json")]
WriteHtml = Annotated[Path, Writable("file", ".html")]
WriteParquet = Annotated[Path, Writable("file", ".parquet")]
