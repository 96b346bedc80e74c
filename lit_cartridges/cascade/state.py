"""A cascade on disk: one safetensors file, whose header holds the settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lit_cartridges.cartridge_files.description import sha256_of, tensors_sha256
from lit_cartridges.errors import CartridgesError
from lit_cartridges.files.content import one_line, parse_json, whole_number
from lit_cartridges.runs.atomic_files import write_atomically

if TYPE_CHECKING:
    from lit_cartridges.cascade.cascade_layer import CascadeLayer
    from lit_cartridges.cascade.cascading_cache import CascadingCache

FORMAT_VERSION = 1
_HEADER = "cascading_cache"
_TENSORS = ("keys", "values", "scores", "tokens", "seen", "counts")


class CascadeFileError(CartridgesError, ValueError):
    """A file that is no cascade's, or not all of one; the message names the file and the mend."""


def save_state(cache: CascadingCache, path: Path) -> Path:
    """Write ``layers.{i}.{keys, values, scores, tokens, seen, counts}``, shaped as in `CascadeLayer`.

    A cache that has read nothing has no tensors.
    """
    # Cloned: layers of one shape share their counts, and safetensors refuses shared memory.
    tensors = {
        f"layers.{i}.{name}": getattr(layer, name).detach().cpu().clone(memory_format=torch.contiguous_format)
        for i, layer in enumerate(cache.layers)
        if layer.is_initialized
        for name in _TENSORS
    }
    header = {
        "format_version": FORMAT_VERSION,
        "settings": cache.settings(),
        "cumulative_lengths": [layer.cumulative_length for layer in cache.layers],
        "tensors_sha256": tensors_sha256(tensors),
    }
    header["sha256"] = sha256_of(header)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(tensors, metadata={_HEADER: json.dumps(header)}))
    return path


def load_state(
    path: Path, *, build: Callable[..., CascadingCache], device: torch.device | str = "cpu"
) -> CascadingCache:
    """Read what `save_state` wrote.

    Args:
        build: an empty cache from its settings.

    Raises:
        CascadeFileError: no such file, one that is truncated or something else, or one of a model of another shape.
    """
    if not path.is_file():
        raise CascadeFileError(f"{path} is no file; give the path that CascadingCache.save wrote")
    try:
        with safe_open(path, framework="pt", device=str(device)) as tensors:
            header = parse_json((tensors.metadata() or {})[_HEADER])
            if whole_number(header["format_version"], "format_version") > FORMAT_VERSION:
                raise CascadeFileError(
                    f"{path} has format version {header['format_version']}; this release reads up to {FORMAT_VERSION}"
                )
            held = {name: tensors.get_tensor(name) for name in tensors.keys()}
            _require_unchanged(header, held)
            cache = build(**header["settings"])
            for i, layer in enumerate(cache.layers):
                layer.cumulative_length = whole_number(header["cumulative_lengths"][i], "cumulative_lengths")
                if layer.cumulative_length == 0 and f"layers.{i}.keys" not in held:
                    continue
                for name in _TENSORS:
                    setattr(layer, name, held[f"layers.{i}.{name}"])
                _require_shapes(layer, f"layers.{i}")
                layer.seen, layer.counts = layer.seen.cpu(), layer.counts.cpu()
                layer.is_initialized = True
            return cache
    except CascadeFileError:
        raise
    except Exception as error:  # bytes that are no cascade make the readers above raise anything
        raise CascadeFileError(
            f"{path} is truncated, no cascade, or one of another model: {one_line(error)}"
        ) from error


def _require_unchanged(header: dict[str, Any], held: dict[str, Tensor]) -> None:
    """Compare both checksums; files of releases that wrote none have exactly the other fields."""
    fields = {"format_version", "settings", "cumulative_lengths"}
    if set(header) == fields:
        return
    if set(header) != fields | {"tensors_sha256", "sha256"} or header["sha256"] != sha256_of(header):
        raise ValueError("its settings were changed after they were written (sha256 differs)")
    if header["tensors_sha256"] != tensors_sha256(held):
        raise ValueError("its tensors were changed after they were written (tensors_sha256 differs)")


def _require_shapes(layer: CascadeLayer, name: str) -> None:
    """Raise ValueError unless the tensors are those of one layer, as `CascadeLayer` describes them, and finite."""
    rows, _, held, _ = layer.keys.shape
    counts = (rows, layer.shape.cascades)
    if (
        layer.values.shape[:3] != layer.keys.shape[:3]
        or not layer.scores.shape == layer.tokens.shape == (rows, layer.tokens.shape[1], held)
        or layer.seen.shape != (rows,)
        or layer.counts.shape != counts
        or any(x.dtype != torch.int64 for x in (layer.tokens, layer.seen, layer.counts))
    ):
        raise ValueError(f"{name} has tensors of shapes that do not go together")
    if (
        not (torch.isfinite(layer.keys).all() and torch.isfinite(layer.values).all())
        or layer.scores.isnan().any()
    ):
        raise ValueError(f"{name} holds NaN or infinite values")
