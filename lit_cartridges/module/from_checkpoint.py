"""What a checkpoint says of its module: the settings that it was made with, and its cartridge.

Nothing that it says is run or imported: of classes, our own objectives are found by their names.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.errors import SettingError
from lit_cartridges.losses import FullDistillation, NextToken, TopKDistillation
from lit_cartridges.models.base_weights import is_bitsandbytes
from lit_cartridges.module.new_cartridge import cartridge_of
from lit_cartridges.runs.checkpoint_files import CheckpointFileError, problem
from lit_cartridges.runs.resuming import settings_then
from lit_cartridges.settings.checked import problem as wrong
from lit_cartridges.settings.checked import type_hints

_OBJECTIVES = {kind.__name__: kind for kind in (FullDistillation, NextToken, TopKDistillation)}
# Of how a model is loaded on this machine nothing is taken over, nor whether its own code may run.
_OF_THIS_MACHINE = ("token", "trust_remote_code", "device_map", "init")


def read(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """A checkpoint's tensors and plain values.

    Raises:
        CheckpointFileError: it cannot be read, or is of another module.
    """
    if (why := problem(Path(path))) is not None:
        raise CheckpointFileError(f"checkpoint_path={str(path)!r} cannot be read: {why}")
    content: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
    if "cartridge" not in content or "cartridge.frozen_keys.0" not in content["state_dict"]:
        raise CheckpointFileError(
            f"checkpoint_path={str(path)!r} holds no cartridge; give one of a run of LitCartridge"
        )
    return content


def settings_of(checkpoint: Mapping[str, Any], kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the constructor of ``kind``: ``given``, and for others what the checkpoint says of them.

    Raises:
        SettingError: another size is given than the cartridge has, or an objective of one's own is not.
    """
    cartridge = checkpoint["cartridge"]
    sizes = {name: cartridge[name] for name in ("num_tokens", "num_frozen_tokens")}
    for name, size in sizes.items():
        if given.get(name, size) != size:
            raise SettingError(
                f"and the checkpoint's cartridge has {size}; leave it out", {name: given[name]}
            )
    then, found = settings_then(checkpoint), dict(sizes)
    for name, hint in _arguments(kind).items():
        if name not in _OF_THIS_MACHINE and name not in given and f"model.{name}" in then:
            value = _taken(name, then[f"model.{name}"])
            if value is not None and wrong(value, hint) is None:
                found[name] = value
    return found | dict(given)


def restored_cartridge(checkpoint: Mapping[str, Any], module: Any) -> Cartridge:
    """The cartridge of a checkpoint, for the model of ``module``, whose weights need not be loaded.

    Raises:
        CartridgeError: the model's cache has another shape.
    """
    known = checkpoint["cartridge"]
    provenance = Provenance(
        base_model=module.model_name,
        fingerprint=Fingerprint.of_config(module.model_config),
        init=known.get("init", ""),
        corpus_sha256=known.get("corpus_sha256", ""),
        steps=int(checkpoint.get("global_step", 0)),
    )
    return cartridge_of(checkpoint["state_dict"], provenance)


def require_same_weights(digest: str, mine: str, name: str) -> None:
    """
    Raises:
        ValueError: a checkpoint was made with other weights than this run has; of unknown ones nothing is said.
    """
    if digest and mine and digest != mine:
        raise ValueError(
            f"the checkpoint was made with other weights of model.model={name!r} (digest {digest[:12]}) than this run has "
            f"({mine[:12]}); give the model that it was made with, or --resume never"
        )


def _arguments(kind: type) -> dict[str, Any]:
    """Names and types of the constructor's arguments, with those that it hands on to the classes it derives from."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if "__init__" in vars(base) and issubclass(base, L.LightningModule):
            found |= type_hints(inspect.unwrap(vars(base)["__init__"]))
    return found


def _taken(name: str, value: Any) -> Any:
    if isinstance(value, dict) and "as" in value:
        return value["as"]
    if name == "objective":
        if value not in _OBJECTIVES:
            raise SettingError(
                "is a class of your own, which a checkpoint cannot bring; give it", objective=value
            )
        return _OBJECTIVES[value]()
    if name == "quantization_config":
        return value if is_bitsandbytes(value) else None
    return tuple(value) if isinstance(value, list) else value
