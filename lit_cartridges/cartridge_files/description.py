"""What a cartridge's file says of itself, and whether that is so: fields, shapes, checksums, finite values.

Two sha256 go with a cartridge: ``tensors_sha256`` of the tensors (names, types, shapes and bytes) and ``sha256`` of all
else that the description says. Files of releases that wrote neither are read without these two checks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lit_cartridges.errors import CartridgesError
from lit_cartridges.files.content import named, parse_json, record, whole_number
from lit_cartridges.provenance import Provenance

FORMAT_VERSION, VERSION_WITHOUT_BIASES = 2, 1
# What keys and values may be held as; a cartridge in memory is fp32.
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_FIELDS = {"format_version", "num_tokens", "num_frozen_tokens", "num_layers", "provenance"}
_CHECKSUMS = {"tensors_sha256", "sha256"}


class HoldsTensors(Protocol):
    """A cartridge, or what a file holds of one."""

    def tensors(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Keys and values per layer."""

    def biases(self) -> Sequence[Tensor] | None:
        """Biases per layer, if any."""


class NotFiniteError(CartridgesError, ValueError):
    """A cartridge with a NaN or an infinite value, which would spoil every answer."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of ``cartridge.json``, checked as far as it can be without the tensors.

    Attributes:
        sides: what each layer has a tensor of: keys, values and perhaps biases.
        tensors_sha256: None in a file of a release that wrote no checksums.
        intact: the description agrees with its own checksum, if it has one.
    """

    num_layers: int
    num_tokens: int
    num_frozen_tokens: int
    provenance: Provenance
    sides: tuple[str, ...]
    tensors_sha256: str | None
    intact: bool

    @classmethod
    def parse(cls, text: str | bytes) -> Description:
        """Read it.

        Raises:
            ValueError: no such description.
        """
        known = parse_json(text)
        if not isinstance(known, dict):
            raise ValueError(f"its description must be an object, found {named(known)}")
        version = whole_number(known.get("format_version"), "format_version", least=1)
        if version > FORMAT_VERSION:
            raise ValueError(
                f"it has format version {version}; this release reads up to {FORMAT_VERSION}: upgrade it"
            )
        if missing := sorted(_FIELDS - set(known)):
            raise ValueError(f"its description has no {', '.join(missing)}")
        # Exactly these, so that a damaged name of a checksum does not pass for a file without one.
        if set(known) not in (_FIELDS, _FIELDS | _CHECKSUMS):
            odd = sorted(set(known) ^ (_FIELDS | _CHECKSUMS))
            raise ValueError(f"its description is damaged, or of a newer release: {named(', '.join(odd))}")
        tokens = whole_number(known["num_tokens"], "num_tokens", least=1)
        return cls(
            num_layers=whole_number(known["num_layers"], "num_layers", least=1),
            num_tokens=tokens,
            num_frozen_tokens=_frozen(known["num_frozen_tokens"], tokens),
            provenance=record(Provenance, known["provenance"], "provenance"),
            sides=("keys", "values", "biases")[: 2 if version == VERSION_WITHOUT_BIASES else 3],
            tensors_sha256=known.get("tensors_sha256"),
            intact=known.get("sha256", sha256_of(known)) == sha256_of(known),
        )

    def require_intact(self) -> None:
        """Raise ValueError where a value was changed after the description was written."""
        if not self.intact:
            raise ValueError("its description was changed after it was written (sha256 differs); get it anew")

    def require_tensors(self, shapes: Mapping[str, list[int]]) -> None:
        """Raise ValueError unless ``shapes``, by name, are those of this cartridge's tensors and of no others."""
        missing = (name for name in self._names() if name not in shapes)
        if first := next(missing, None):
            raise ValueError(f"it says num_layers={self.num_layers}, and {first} is missing")
        if extra := sorted(set(shapes) - set(self._names())):
            raise ValueError(f"it holds tensors that are not a cartridge's: {named(', '.join(extra))}")
        for name, shape in shapes.items():
            ndim = 2 if name.endswith(".biases") else 3
            if len(shape) != ndim or min(shape) < 1 or shape[1] != self.num_tokens:
                raise ValueError(f"{name} is {shape}, and num_tokens is said to be {self.num_tokens}")
            heads = shapes[f"{name.rpartition('.')[0]}.keys"][0]
            if shape[0] != heads:
                raise ValueError(f"{name} has {shape[0]} kv heads, and the keys of its layer {heads}")

    def _names(self) -> Iterator[str]:
        return (f"layers.{layer}.{side}" for layer in range(self.num_layers) for side in self.sides)


def described(known: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """``known`` as JSON will give it back, with both checksums.

    Raises:
        ValueError: a provenance that JSON cannot hold, or that would not be read again.
    """
    try:
        plain = parse_json(json.dumps(known))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the cartridge's provenance cannot be written: {error}") from error
    plain["tensors_sha256"] = tensors_sha256(tensors)
    plain["sha256"] = sha256_of(plain)
    Description.parse(json.dumps(plain))
    return dict(plain)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and bytes, in the order of the names; as hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {x.dtype} {list(x.shape)}\n".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sha256_of(known: Mapping[str, Any]) -> str:
    """Of a JSON object, but for its entry ``sha256``; as hex."""
    rest = {name: value for name, value in known.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def not_finite(cartridge: HoldsTensors, dtype: torch.dtype = torch.float32) -> str | None:
    """Where a value is NaN or infinite, or would be in ``dtype``, in words; None where none is."""
    keys, values = cartridge.tensors()
    for side, tensors in (("keys", keys), ("values", values), ("biases", cartridge.biases() or ())):
        for layer, x in enumerate(tensors):
            if not torch.isfinite(x.detach().to(dtype)).all():
                name = str(dtype).removeprefix("torch.")
                return f"the {side} of layer {layer} hold values that are NaN or infinite in {name}"
    return None


def require_finite(cartridge: HoldsTensors, dtype: torch.dtype = torch.float32) -> None:
    """Raise `NotFiniteError` where a value is NaN or infinite, or would be in ``dtype``."""
    if where := not_finite(cartridge, dtype):
        raise NotFiniteError(f"{where}; a model that reads them answers nonsense")


def _frozen(value: Any, tokens: int) -> int:
    frozen = whole_number(value, "num_frozen_tokens")
    if frozen >= tokens:
        raise ValueError(
            f"num_frozen_tokens={frozen} with num_tokens={tokens}: one at least must be left to train"
        )
    return frozen
