"""Loads a frozen model shard by shard: no process ever holds more of it than its share and one layer.

Data flow: config → model on the meta device → the files' tensors, one layer at a time → `shard`. Every process reads
every layer from the files, which are mapped into memory and so read from disk once a machine.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from lit_cartridges.models.base_weights import note_base
from lit_cartridges.models.errors import Refused, explained
from lit_cartridges.models.loaded_weights import require_whole
from lit_cartridges.models.loading import base_facts, load_config, model_classes
from lit_cartridges.models.places import Place, locate
from lit_cartridges.models.weight_files import (
    SINGLE,
    file_of_tensors,
    require_readable_files,
    safetensors_names,
    tensors_of,
)
from lit_cartridges.strategies.nvme_shards import nvme_shards
from lit_cartridges.strategies.sharded_weights import shard, sharded_modules

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE_BYTES = 1024**2


def load_sharded(
    name: str,
    *,
    dtype: str,
    device: torch.device,
    config: dict[str, Any],
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    setting: str = "model",
) -> PreTrainedModel:
    """The model as `lit_cartridges.models.load_model` gives it, its layers sharded over all processes.

    Args:
        dtype: "auto" (that of its config), "float32", "bfloat16" or "float16".
        device: where layers run.
        config: DeepSpeed's, of stage 3.
        revision, token, trust_remote_code, setting: as `load_model` takes them.

    Raises:
        ValueError: the model has no safetensors files, or they lack some of its weights; or its layers cannot be sharded.
    """
    if device.type == "cpu":
        return_large_blocks()
    hub: dict[str, Any] = {"revision": revision, "token": token}
    model_config = load_config(name, trust_remote_code=trust_remote_code, setting=setting, **hub)
    wanted: Any = (model_config.dtype or torch.float32) if dtype == "auto" else getattr(torch, dtype)
    place = locate(name, setting=setting, **hub)
    with explained(name, setting=setting, revision=revision):
        names = safetensors_names(model_config)
        folder = _folder(place, token, names)
        kind = model_classes(model_config)[0]
        with torch.device("meta"):
            model: Any = kind.from_config(model_config, dtype=wanted, trust_remote_code=trust_remote_code)
    model.eval().requires_grad_(False)
    _make_buffers(model, device)
    model.tie_weights()
    waiting = sharded_modules(model)
    store = nvme_shards(waiting, config=config)
    mismatched: list[Any] = []
    file_of = file_of_tensors(folder, names=names)
    for tensors in _layers(model, folder, file_of):
        _place(model, tensors, wanted, device, mismatched)
        waiting = [module for module in waiting if not _sharded(module, config, store)]
    model.tie_weights()
    with explained(name, setting=setting, revision=revision):
        unknown = [key for key in file_of if not _has(model, key)]
        require_whole(model, {"unexpected_keys": unknown, "mismatched_keys": mismatched})
    missing = [key for key, x in (*model.named_parameters(), *model.named_buffers()) if x.is_meta]
    if missing:
        raise ValueError(
            f"{setting}={name!r}: its files lack {', '.join(missing[:5])}, {len(missing)} tensors in all"
        )
    model.config._name_or_path = name
    note_base(model, base_facts(place, revision=revision, dtype=wanted, config=model_config))
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(str(folder))
    return model


def _folder(place: Place, token: str | None, names: tuple[str, ...]) -> Path:
    folder = Path(place.source)
    if not folder.is_dir():
        patterns = ["*.json", "*.safetensors"]
        folder = Path(
            snapshot_download(place.source, revision=place.revision, token=token, allow_patterns=patterns)
        )
    if not file_of_tensors(folder, names=names):
        raise Refused(
            f"it has no {SINGLE}: only safetensors files can be loaded shard by shard; convert it by loading it once and "
            "calling save_pretrained"
        )
    require_readable_files(folder, names=names)
    return folder


def _make_buffers(model: Any, device: torch.device) -> None:
    """Give the buffers that no file holds (rotary frequencies, embedding scales) their values."""
    for module in model.modules():
        names = [name for name, x in module._buffers.items() if x is not None and x.is_meta]
        for name in names:
            module._buffers[name] = torch.zeros_like(module._buffers[name], device=device)
        if names:
            model._init_weights(module)


def _layers(model: Any, folder: Path, file_of: dict[str, str]) -> Iterator[dict[str, Tensor]]:
    """The tensors of the files under the model's names, the keys of one layer at a time."""
    for _, keys in groupby(sorted(file_of, key=_layer_of), key=_layer_of):
        # Opened anew for each layer: what has been read of a mapped file counts as memory until it is closed.
        yield from _converted(model, dict(tensors_of(folder, file_of, list(keys))))


def _layer_of(key: str) -> tuple[str, int]:
    """What a key has in common with the others of its layer."""
    found = re.match(r"(.*?)\.(\d+)\.", key)
    return (found[1], int(found[2])) if found else ("", -1)


def _converted(model: Any, tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Renamed and merged (a layer's experts, say) as transformers does when it loads such files."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.integrations.deepspeed import _apply_weight_conversions_to_state_dict

    mapping = get_model_conversion_mapping(model)
    if not mapping:
        yield tensors
        return
    converted = _apply_weight_conversions_to_state_dict(model, tensors, mapping)
    yield from [converted] if isinstance(converted, dict) else converted


def _place(
    model: Any,
    tensors: dict[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    mismatched: list[Any],
) -> None:
    """Give the model the tensors; those of another shape than its own are noted in ``mismatched``."""
    for key, tensor in tensors.items():
        if not _has(model, key):
            key = f"{model.base_model_prefix}.{key}"
        if not _has(model, key):
            continue
        path, _, name = key.rpartition(".")
        module = model.get_submodule(path)
        place = module._parameters.get(name, module._buffers.get(name))
        if place is not None and place.is_meta and place.shape != tensor.shape:
            mismatched.append((key, tensor.shape, place.shape))
            continue
        # A copy, since the tensor is a window on a mapped file.
        value = tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(value, requires_grad=False)
        else:
            module._buffers[name] = value


def _has(model: Any, key: str) -> bool:
    path, _, name = key.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return False
    return name in module._parameters or name in module._buffers


def _sharded(module: nn.Module, config: dict[str, Any], store: Any) -> bool:
    """Shard the module if it is complete."""
    if any(parameter.is_meta for parameter in module.parameters()):
        return False
    shard(module, config, store)
    return True


def return_large_blocks() -> None:
    """From now on, blocks of a MiB or more do not come from this process's heap.

    glibc takes blocks of up to 32 MiB from the heap once one of that size has been freed, and a heap shrinks at its end
    only: layers that were let go stay resident, several times what is held. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
