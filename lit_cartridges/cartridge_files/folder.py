"""A cartridge on disk: ``cartridge.safetensors`` (the truth), ``cartridge.json`` and ``README.md`` (for readers).

The safetensors file holds ``layers.{i}.keys`` and ``layers.{i}.values`` [kv_heads, num_tokens, head_dim] and, in its
header, the same description as ``cartridge.json``, so that one atomic rename replaces all that loading needs.

Format version 2 is version 1 with ``layers.{i}.biases`` [kv_heads, num_tokens]. A cartridge without biases is still
written as version 1; readers of that version refuse the other, rather than leave the biases out. Both carry checksums
(see `cartridge_description`), which releases before them ignore; and files without them are read.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import huggingface_hub
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lit_cartridges.cartridge_files.description import (
    DTYPES,
    FORMAT_VERSION,
    VERSION_WITHOUT_BIASES,
    Description,
    described,
    not_finite,
    require_finite,
    tensors_sha256,
)
from lit_cartridges.cartridge_files.model_card import model_card
from lit_cartridges.errors import CartridgesError
from lit_cartridges.files.content import one_line, parse_json
from lit_cartridges.models.found_models import license_on_hub, refusal, unreachable
from lit_cartridges.provenance import Provenance
from lit_cartridges.runs.atomic_files import write_atomically

if TYPE_CHECKING:
    from lit_cartridges.cartridge import Cartridge

TENSORS, DESCRIPTION, CARD = "cartridge.safetensors", "cartridge.json", "README.md"


@dataclass(frozen=True)
class HeldCartridge:
    """What a folder holds: per layer keys and values [kv_heads, num_tokens, head_dim], biases [kv_heads, num_tokens]."""

    keys: list[Tensor]
    values: list[Tensor]
    key_biases: list[Tensor] | None = None
    num_frozen_tokens: int = 1
    provenance: Provenance = field(default_factory=Provenance)

    def tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values."""
        return self.keys, self.values

    def biases(self) -> list[Tensor] | None:
        """Biases, if any."""
        return self.key_biases


class HubError(CartridgesError, OSError):
    """The Hub does not take a cartridge, or cannot be reached; the message says why and what would work."""


class CartridgeFileError(CartridgesError, ValueError):
    """A file that is no cartridge of ours, or not all of one; the message names the file and the mend."""


def save_cartridge(cartridge: Cartridge, folder: Path) -> Path:
    """Write the three files into ``folder``, each beside its place and renamed into it.

    Warns (`UserWarning`) of values that are NaN or infinite: no such folder is read again.

    Raises:
        ValueError: a provenance that JSON cannot hold; nothing is written then.
    """
    if where := not_finite(cartridge):
        warnings.warn(f"{folder}: {where}, and will be refused when it is loaded", stacklevel=3)
    keys, values = cartridge.tensors()
    tensors = {
        f"layers.{layer}.{name}": x.detach().cpu().contiguous()
        for name, side in (("keys", keys), ("values", values), ("biases", cartridge.biases() or ()))
        for layer, x in enumerate(side)
    }
    description = described(describe(cartridge), tensors)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TENSORS, save(tensors, metadata={"cartridge": json.dumps(description)}))
    write_atomically(folder / DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())
    write_atomically(folder / CARD, model_card(description).encode())
    return folder


def load_cartridge(path: str | Path, **hub: Any) -> HeldCartridge:
    """Read a folder, or download a Hub repository of that name first.

    Raises:
        CartridgeFileError: the folder or its tensors are missing, truncated, damaged, or not a cartridge's; the message
            names the file.
    """
    folder = here_or_downloaded(path, [TENSORS, DESCRIPTION], needs=TENSORS, **hub)
    file = folder / TENSORS
    if not file.is_file():
        raise CartridgeFileError(
            f"path={str(path)!r} holds no {TENSORS}; give the folder that save_pretrained wrote"
        )
    held, known = _read(file)
    _check_copy(folder / DESCRIPTION, known)
    return held


def here_or_downloaded(
    path: str | Path, files: Sequence[str], *, needs: str | None = None, **hub: Any
) -> Path:
    """``path`` itself, or the Hub repository of that name, of which those files are downloaded that ``files`` match.

    Args:
        needs: the file without which the repository is of no use, so that a Hub out of reach is told at once.
        hub: goes to huggingface_hub's download.

    Raises:
        CartridgeFileError: it is neither.
    """
    place, told = Path(path), f"path={str(path)!r}"
    if place.exists() or len(place.parts) != 2 or str(path).startswith((".", "/", "~")):
        return place
    if needs is not None and (why := unreachable(str(path), file=needs)) is not None:
        raise CartridgeFileError(f"{told}: {why}")
    try:
        return Path(huggingface_hub.snapshot_download(str(path), allow_patterns=list(files), **hub))
    except (OSError, ValueError) as error:
        raise CartridgeFileError(
            f"{told} is no folder here, and the Hub has none for us: {refusal(error)}"
        ) from error


def read_header(file: Path) -> tuple[Description, dict[str, Any]]:
    """What the header of ``cartridge.safetensors`` says, checked as far as it can be without reading the tensors; parsed, and
    as the JSON object of ``cartridge.json``.

    Raises:
        CartridgeFileError: see `load_cartridge`.
    """
    with _told(file), safe_open(file, framework="pt") as held:
        return _header(held, file)


def _header(held: Any, file: Path) -> tuple[Description, dict[str, Any]]:
    text = (held.metadata() or {}).get("cartridge")
    if text is None:
        raise CartridgeFileError(f"{file} is a safetensors file but not a cartridge's: it has no description")
    known = Description.parse(text)
    known.require_tensors({name: held.get_slice(name).get_shape() for name in held.keys()})
    known.require_intact()
    return known, parse_json(text)


def _read(file: Path) -> tuple[HeldCartridge, Description]:
    with _told(file):
        with safe_open(file, framework="pt") as held:
            known, _ = _header(held, file)
            tensors = {name: held.get_tensor(name) for name in held.keys()}
        _require_whole(tensors, known)
        sides = [[tensors[f"layers.{i}.{side}"] for i in range(known.num_layers)] for side in known.sides]
        keys, values, *biases = sides
        cartridge = HeldCartridge(
            keys,
            values,
            biases[0] if biases else None,
            num_frozen_tokens=known.num_frozen_tokens,
            provenance=known.provenance,
        )
        require_finite(cartridge)
        return cartridge, known


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """A body whose errors name the file."""
    try:
        yield
    except CartridgeFileError:
        raise
    except ValueError as error:
        raise CartridgeFileError(f"{file}: {one_line(error)}") from error
    except Exception as error:  # bytes that are no cartridge make the readers below raise anything
        raise CartridgeFileError(f"{file} is truncated or not a cartridge: {one_line(error)}") from error


def _require_whole(tensors: dict[str, Tensor], known: Description) -> None:
    for name, x in tensors.items():
        if x.dtype not in DTYPES:
            raise ValueError(f"{name} is {str(x.dtype).removeprefix('torch.')}, which no key or value is")
    if known.tensors_sha256 not in (None, tensors_sha256(tensors)):
        raise ValueError(
            "its tensors were changed after they were written (tensors_sha256 differs); get it anew"
        )


def _check_copy(file: Path, header: Description) -> None:
    """``cartridge.json`` repeats the header for readers. A crash between the two files leaves that of the save before."""
    if not file.is_file():
        return
    try:
        known = Description.parse(file.read_bytes())
        known.require_intact()
    except (OSError, ValueError) as error:
        raise CartridgeFileError(
            f"{file} is damaged: {one_line(error)}; what counts stands in {TENSORS}: delete {file.name}, or get it anew"
        ) from error
    names = ("num_layers", "num_tokens", "num_frozen_tokens", "provenance")
    if any(getattr(known, name) != getattr(header, name) for name in names):
        warnings.warn(f"{file} is of another save than {TENSORS} beside it, which counts", stacklevel=4)


def push_cartridge(
    cartridge: Cartridge, repo_id: str, *, add: Callable[[Path], object] = lambda folder: None, **hub: Any
) -> str:
    """Create the Hub repository if need be and upload the folder; returns the commit's address.

    Args:
        add: writes further files into the folder.

    Raises:
        HubError: the Hub does not take it, or cannot be reached.
    """
    require_finite(cartridge)
    api = huggingface_hub.HfApi(token=hub.pop("token", None))
    private, license = hub.pop("private", None), hub.pop("license", None)
    known = cartridge.provenance
    license = license or known.notes.get("license") or license_on_hub(api, known.base_model)
    cartridge.provenance = replace(known, notes=known.notes | {"license": license})
    with TemporaryDirectory() as folder:
        save_cartridge(cartridge, Path(folder))
        write_atomically(Path(folder) / CARD, model_card(describe(cartridge), place=repo_id).encode())
        add(Path(folder))
        try:
            api.create_repo(repo_id, exist_ok=True, private=private)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **hub))
        except Exception as error:  # of the client's, of the libraries below it, and of the system's
            raise HubError(f"repo_id={repo_id!r}: {refusal(error, api.endpoint)}") from error


def describe(cartridge: Cartridge) -> dict[str, Any]:
    """The content of ``cartridge.json``."""
    return {
        "format_version": VERSION_WITHOUT_BIASES if cartridge.biases() is None else FORMAT_VERSION,
        "num_tokens": cartridge.num_tokens,
        "num_frozen_tokens": cartridge.num_frozen_tokens,
        "num_layers": cartridge.num_layers,
        "provenance": asdict(cartridge.provenance),
    }
