"""A digest of a model's weights, cheap enough for every start: other weights of the same shapes have another one.

It is taken from the **files** that the model is loaded from: of every tensor (of 512 at even distances where there are
more) its shape and 1,024 of its values, in runs of 64 at even distances, rounded to bf16. So it does not depend on the
dtype that weights are cast to, on the device, on quantisation while loading, nor on how processes shard them; and a copy
of the model in another dtype or with other file sizes has the same one, unless fp32 weights were saved in fp16, which
rounds twice. Tensors count by the part of their names behind the first number (``3.mlp.up_proj.weight``), so that a
prefix which releases of transformers rename (``language_model.``) is nothing, and neither is a tied copy. The model of an
adapter's folder has a digest of the base's weights, the adapter's, and what scales them.

What it cannot see: a change of single values between the sampled ones. It is no signature.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from lit_cartridges.models.errors import Refused
from lit_cartridges.models.weight_files import (
    ADAPTER,
    ADAPTER_PICKLE,
    INDEX,
    PICKLE,
    PICKLE_INDEX,
    SINGLE,
    file_of_tensors,
    tensors_of,
)

_MOST_TENSORS, _RUNS, _RUN = 512, 16, 64
# What an adapter's config says beside its function: where the base lies, and who wrote it.
_NOT_ADAPTERS_FUNCTION = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
}


def weights_digest(
    folder: Path, adapter: Path | None = None, *, names: tuple[str, ...] = (SINGLE, INDEX)
) -> str:
    """32 hexadecimal digits, of the weights in ``folder`` and of the PEFT adapter in ``adapter``; empty without readable
    files.

    Args:
        names: see `safetensors_names`.
    """
    try:
        parts = _of_tensors(folder, (*names, PICKLE, PICKLE_INDEX))
        if adapter is not None:
            parts += [b"adapter", *_of_tensors(adapter, (ADAPTER, ADAPTER_PICKLE))]
            settings = json.loads((adapter / "adapter_config.json").read_text())
            scales = {key: value for key, value in settings.items() if key not in _NOT_ADAPTERS_FUNCTION}
            parts.append(json.dumps(scales, sort_keys=True).encode())
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, UnpicklingError, Refused, SafetensorError):
        return ""
    return _hash(parts).hex() if parts else ""


def _of_tensors(folder: Path, names: tuple[str, ...]) -> list[bytes]:
    file_of = file_of_tensors(folder, names=names)
    keys = sorted(file_of, key=_place)
    step = max(1, len(keys) / _MOST_TENSORS)
    chosen = [keys[int(i * step)] for i in range(min(len(keys), _MOST_TENSORS))]
    return sorted(
        {
            _hash([_place(key).encode(), repr(tuple(tensor.shape)).encode(), sampled(tensor)])
            for key, tensor in tensors_of(folder, file_of, chosen)
        }
    )


def _place(key: str) -> str:
    """What stays of a tensor's name when its prefix changes; nothing of one that belongs to no layer."""
    found = re.search(r"\.(\d+\..*)", key)
    return found[1] if found else ""


def sampled(tensor: Tensor) -> bytes:
    """Its values at places that its size alone decides, in bf16 if they are floating-point numbers."""
    flat = tensor.reshape(-1)
    if len(flat) > _RUNS * _RUN:
        # Said aloud: Lightning loads models where the default device is the one that they are for.
        runs, run = (torch.arange(count, device=flat.device) for count in (_RUNS, _RUN))
        starts = runs * (len(flat) - _RUN) // (_RUNS - 1)
        flat = flat[(starts[:, None] + run).reshape(-1)]
    values: Any = flat.to(torch.bfloat16) if flat.is_floating_point() else flat
    return values.contiguous().view(torch.uint8).numpy().tobytes() if len(values) else b""


def _hash(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()[:16]
