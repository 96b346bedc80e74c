"""A cascade on disk: one safetensors file, whose header holds the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers import PretrainedConfig

from lit_cartridges.cartridge_files import write_atomically
from lit_cartridges.errors import CartridgesError

if TYPE_CHECKING:
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
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(tensors, metadata={_HEADER: json.dumps(header)}))
    return path


def load_state(path: Path, *, config: PretrainedConfig, device: torch.device | str = "cpu") -> CascadingCache:
    """Read what `save_state` wrote.

    Raises:
        CascadeFileError: no such file, one that is truncated or something else, or one of a model of another shape.
    """
    from lit_cartridges.cascade.cascading_cache import CascadingCache

    if not path.is_file():
        raise CascadeFileError(f"{path} is no file; give the path that CascadingCache.save wrote")
    try:
        with safe_open(path, framework="pt", device=str(device)) as tensors:
            header = json.loads((tensors.metadata() or {})[_HEADER])
            if header["format_version"] > FORMAT_VERSION:
                raise CascadeFileError(
                    f"{path} has format version {header['format_version']}; this release reads up to {FORMAT_VERSION}"
                )
            cache = CascadingCache(config=config, **header["settings"])
            names = set(tensors.keys())
            for i, layer in enumerate(cache.layers):
                layer.cumulative_length = header["cumulative_lengths"][i]
                if layer.cumulative_length == 0 and f"layers.{i}.keys" not in names:
                    continue
                for name in _TENSORS:
                    setattr(layer, name, tensors.get_tensor(f"layers.{i}.{name}"))
                layer.seen, layer.counts = layer.seen.cpu(), layer.counts.cpu()
                layer.is_initialized = True
            return cache
    except CascadeFileError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CascadeFileError(
            f"{path} is truncated, no cascade, or one of another model: {error}"
        ) from error
