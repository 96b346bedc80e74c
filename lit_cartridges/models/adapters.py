"""A PEFT adapter's folder (LoRA and its kin) as a model: its base with the adapter active.

The adapter stays beside the base's weights rather than merged into them: that is what it was trained as, 16-bit weights
do not round it away, and quantised bases cannot be merged into.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers.utils.peft_utils import find_adapter_config_file

from lit_cartridges.models.errors import Refused
from lit_cartridges.models.weight_files import ADAPTER, ADAPTER_PICKLE

# These put positions, gates or attention of their own into a model, beside the weights; the prompts among them are
# what a cartridge is.
_NOT_WEIGHTS = {
    "ADAPTION_PROMPT",
    "CARTRIDGE",
    "CPT",
    "MULTITASK_PROMPT_TUNING",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
    "XLORA",
}


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter and the model that it belongs to.

    Args:
        place: its folder or Hub id.
        revision: of it, on the Hub.
        base: the base model by its folder or Hub id.
        base_revision: the revision of it, where the adapter says so.
        folder: where its files lie.
    """

    place: str
    revision: str | None
    base: str
    base_revision: str | None
    folder: Path


def find_adapter(place: str, *, revision: str | None, token: str | None) -> Adapter | None:
    """The adapter in a folder or the Hub repository ``place``; None where that is no adapter's.

    Raises:
        Refused: an adapter that cannot be used, or not without the peft package.
    """
    file = find_adapter_config_file(place, revision=revision, token=token)
    if file is None:
        return None
    path = Path(file)
    settings: Any = json.loads(path.read_text())
    kind = str(settings.get("peft_type")) if isinstance(settings, dict) else "None"
    base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    if kind in _NOT_WEIGHTS:
        raise Refused(
            f"it is a PEFT adapter of type {kind}, which is no change of weights and so no model to train on; give its base "
            f"model {base!r} (lit-cartridges convert makes a cartridge of PREFIX_TUNING and CARTRIDGE adapters)"
        )
    if not isinstance(base, str) or not base:
        raise Refused(
            "it is a PEFT adapter whose adapter_config.json names no base_model_name_or_path; name it there"
        )
    if settings.get("alora_invocation_tokens"):
        raise Refused(
            "it is a PEFT adapter that some tokens of a prompt switch on (aLoRA), which is no fixed model"
        )
    if settings.get("megatron_config"):
        raise Refused(
            "it is a PEFT adapter with a megatron_config, which would import what a file names; remove it"
        )
    if (path.parent / "config.json").exists():
        raise Refused(
            "it holds a model (config.json) and an adapter (adapter_config.json), and which of them is meant cannot be "
            "told; give a folder with one of them"
        )
    if find_spec("peft") is None:
        raise Refused("it is a PEFT adapter, and peft is not installed; pip install 'lit_cartridges[lora]'")
    base_revision = settings.get("revision")
    return Adapter(
        place=place,
        revision=revision,
        base=base,
        base_revision=base_revision if isinstance(base_revision, str) else None,
        folder=path.parent,
    )


def activate(model: Any, adapter: Adapter, *, token: str | None) -> None:
    """Load the adapter into ``model``, its base, by PEFT itself.

    Raises:
        Refused: weights of the adapter that the base has no place for, or that the adapter's files lack.
    """
    from peft import PeftConfig, PeftModel

    places = {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()}
    if len(places) > 1 and places & {"cpu", "disk"}:
        raise Refused(
            "it is a PEFT adapter, and device_map puts a part of its base on the CPU or a disk, from where adapters cannot "
            "use it; leave device_map out, or name GPUs alone"
        )
    if Path(adapter.place).is_dir() and not any(
        (adapter.folder / name).is_file() for name in (ADAPTER, ADAPTER_PICKLE)
    ):
        raise Refused(f"it is a PEFT adapter without its weights, {ADAPTER}; download or save it again")
    files: Any = {"revision": adapter.revision, "token": token}
    config = PeftConfig.from_pretrained(adapter.place, **files)
    config.inference_mode = True
    report = PeftModel(model, config).load_adapter(adapter.place, "default", **files)
    lost = {"lacks": report.missing_keys, "has no place in the base for": report.unexpected_keys}
    for what, keys in lost.items():
        if keys:
            named = ", ".join(sorted(keys)[:3])
            raise Refused(
                f"the adapter {what} {len(keys)} weights ({named}); give the base that it was made for"
            )
