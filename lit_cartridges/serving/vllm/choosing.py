"""Which engine answers: vLLM where it can be started and computes what the engine in process does, else that one."""

from __future__ import annotations

from dataclasses import dataclass

from lit_cartridges.errors import CartridgesError, SettingError
from lit_cartridges.serving.vllm.server import found_vllm
from lit_cartridges.serving.vllm.unloaded import UnloadedModel
from lit_cartridges.strategies.frozen_models import FrozenModel


@dataclass(frozen=True)
class Choice:
    """
    Args:
        why: in a few words.
        unloaded, python, version: of vLLM, if that is chosen; else None and empty.
    """

    why: str
    unloaded: UnloadedModel | None = None
    python: str = ""
    version: str = ""


def chosen_engine(asked: str | None, *, python: str | None, model: FrozenModel, device: str) -> Choice:
    """
    Args:
        asked: "vllm" or "local"; None leaves it to us.
        python: vLLM's interpreter, as the user names it.
        device: as the user names it; "auto" leaves it to the engine.

    Raises:
        SettingError: vLLM is asked for and cannot serve the model.
    """
    if asked == "local":
        return Choice("as asked for")
    try:
        path, version = found_vllm(python)
        if device != "auto" or model.device_map is not None:
            raise SettingError(
                "is of the engine in process; vLLM takes the devices that CUDA_VISIBLE_DEVICES names",
                {"device": device} if model.device_map is None else {"device_map": model.device_map},
            )
        unloaded = UnloadedModel(model)
    except CartridgesError as error:
        if asked == "vllm":
            raise
        return Choice(str(error))
    return Choice(f"vLLM {version} of {path}", unloaded, path, version)
