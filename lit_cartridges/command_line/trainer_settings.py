"""What Lightning's Trainer is told, looked at before anything is built: Lightning would see much of it late, or never."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.plugins.environments import LSFEnvironment, MPIEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import StrategyRegistry

from lit_cartridges.errors import SettingError
from lit_cartridges.runs.run_progress import require_whole_epochs
from lit_cartridges.settings import (
    Check,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Range,
    Share,
    WriteFolder,
    require,
)

_PROCESSES_PER_CORE = 8


def require_trainer(settings: Mapping[str, Any], *, training: bool) -> None:
    """
    Args:
        settings: ``trainer`` of the parsed configuration.
        training: for ``fit``, which needs an end; the other commands count no steps.

    Raises:
        SettingError: one cannot work, or two of them together.
    """
    try:
        for name in _EACH.keys() & settings.keys():
            require(name, settings[name], _EACH[name])
        _together(settings, training=training)
    except SettingError as error:
        raise SettingError(
            error.why, {f"trainer.{name}": value for name, value in error.settings.items()}
        ) from None


def blamed(settings: Mapping[str, Any], error: Exception) -> SettingError:
    """The setting because of which Lightning refused to build a Trainer: one that it refuses alone too, or all."""
    for name, value in settings.items():
        if name in ("callbacks", "logger", "plugins", "default_root_dir") or value is None:
            continue
        try:
            Trainer(**{"logger": False, "barebones": False, name: value})
        except Exception as alone:
            if str(alone) == str(error):
                return SettingError(str(error), {f"trainer.{name}": value})
    return SettingError(f"trainer: {error}")


class _Name(Check):
    """A name of a registry of Lightning's; an object of a class of one's own passes."""

    def __init__(self, *known: str) -> None:
        self.known = known

    def problem(self, value: Any) -> str | None:
        """See `Check.problem`."""
        if not isinstance(value, str) or value in self.known:
            return None
        return f"must be one of {', '.join(self.known)}"


class _Duration(Check):
    """A time in Lightning's words: ``DD:HH:MM:SS``, or its parts by name."""

    def problem(self, value: Any) -> str | None:
        """See `Check.problem`."""
        try:
            left = Timer(value if isinstance(value, str | timedelta) else dict(value)).time_remaining()
        except Exception:
            return "must be a duration such as 00:12:00:00 (days, hours, minutes, seconds)"
        return None if left is None or left > 0 else "must be longer than nothing"


class _Interval(Check):
    """When to validate: so many batches. The stream of batches has no length, so a share of it is nothing."""

    def problem(self, value: Any) -> str | None:
        """See `Check.problem`."""
        if isinstance(value, bool) or (isinstance(value, float) and value != 1.0):
            return "must be a number of batches: the stream has no length of which this could be a share"
        if isinstance(value, int):
            return Range(least=1, most=2**31 - 1).problem(value)
        return None if isinstance(value, float) else _Duration().problem(value)


_Batches = Annotated[int, Range(least=0, most=2**31 - 1)] | Share | None
_Epochs = Annotated[int, Range(least=-1, most=2**31 - 1)] | None


_EACH: dict[str, Any] = {
    "accelerator": Annotated[
        Any, _Name("auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators()))
    ],
    "strategy": Annotated[Any, _Name("auto", *StrategyRegistry.available_strategies())],
    "num_nodes": Annotated[int, Range(least=1, most=100_000)],
    "fast_dev_run": bool | NonNegativeInt,
    "max_epochs": _Epochs,
    "min_epochs": NonNegativeInt | None,
    "max_steps": Annotated[int, Range(least=-1, most=2**31 - 1)],
    "min_steps": NonNegativeInt | None,
    "max_time": Annotated[Any, _Duration()] | None,
    "limit_train_batches": Annotated[int, Range(least=1, most=2**31 - 1)] | Share | None,
    "limit_val_batches": _Batches,
    "limit_test_batches": _Batches,
    "limit_predict_batches": _Batches,
    "overfit_batches": _Batches,
    "val_check_interval": Annotated[Any, _Interval()] | None,
    "check_val_every_n_epoch": PositiveInt | None,
    "num_sanity_val_steps": Annotated[int, Range(least=-1, most=2**31 - 1)] | None,
    "log_every_n_steps": NonNegativeInt | None,
    "accumulate_grad_batches": PositiveInt,
    "gradient_clip_val": NonNegativeFloat | None,
    "gradient_clip_algorithm": Literal["norm", "value"] | None,
    "profiler": Annotated[Any, _Name("simple", "advanced", "pytorch", "xla")] | None,
    "reload_dataloaders_every_n_epochs": NonNegativeInt,
    "default_root_dir": WriteFolder | None,
}


def _together(settings: Mapping[str, Any], *, training: bool) -> None:
    get = settings.get
    if training and (get("max_steps") or 0) < 1:
        raise SettingError(
            "must be at least 1: the stream has no end, so a run needs a number of optimizer steps",
            max_steps=get("max_steps"),
        )
    for limit, least in (("max_steps", "min_steps"), ("max_epochs", "min_epochs")):
        if (get(least) or 0) > (get(limit) or 0) > 0:
            raise SettingError("the least is more than the most", {least: get(least), limit: get(limit)})
    if training and get("max_epochs") == 0:
        raise SettingError("must be at least 1, or left out", max_epochs=0)
    for share in ("limit_train_batches", "overfit_batches"):
        value = get(share)
        if (
            isinstance(value, float)
            and value not in (0.0, 1.0)
            or (share[0] == "l" and value == 0.0 and value is not None)
        ):
            raise SettingError(
                "must be a number of batches: the stream has no length of which this could be a share",
                {share: value},
            )
    if training and not get("fast_dev_run"):
        require_whole_epochs(
            limit_train_batches=get("limit_train_batches"),
            overfit_batches=get("overfit_batches"),
            accumulate_grad_batches=get("accumulate_grad_batches") or 1,
            prefix="",
        )
    if training and get("barebones"):
        raise SettingError("would save nothing, not even the cartridge; leave it out", barebones=True)
    if training and str(get("strategy")).startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
        raise SettingError(
            "is for notebooks: this process would not learn how the run of its children ends; set ddp",
            strategy=get("strategy"),
        )
    accelerator = get("accelerator")
    if isinstance(accelerator, str):
        _require_devices(accelerator, get("devices", "auto"))
    nodes = get("num_nodes") or 1
    cluster = any(one.detect() for one in (SLURMEnvironment, LSFEnvironment, MPIEnvironment))
    if nodes > 1 and not get("plugins") and not cluster and "MASTER_ADDR" not in os.environ:
        raise SettingError(
            "nothing says where the other nodes are: start the command by SLURM or torchrun, or set MASTER_ADDR, "
            "MASTER_PORT and NODE_RANK",
            num_nodes=nodes,
        )


def _require_devices(accelerator: str, devices: Any) -> None:
    """
    Raises:
        SettingError: this machine has no such accelerator, or not these devices of it.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    kind = {"auto": "cuda" if cuda else "mps" if mps else "cpu", "gpu": "cuda" if cuda else "mps"}.get(
        accelerator, accelerator
    )
    there = {"cuda": cuda, "mps": int(mps)}.get(kind, 1)
    if kind in ("cuda", "mps") and not there:
        raise SettingError("this machine has no such device that torch can use", accelerator=accelerator)
    if devices == "auto" or kind not in ("cpu", "cuda", "mps"):
        return
    most = (os.cpu_count() or 1) * _PROCESSES_PER_CORE if kind == "cpu" else there
    wrong = SettingError(
        f"must be auto, or a number from 1 to {most}"
        + ("" if kind == "cpu" else f", or a list of devices from 0 to {most - 1}"),
        devices=devices,
    )
    try:
        if isinstance(devices, str) and "," not in devices:
            devices = int(devices)
        elif isinstance(devices, str):
            devices = [int(one) for one in devices.split(",") if one.strip()]
    except ValueError:
        raise wrong from None
    if isinstance(devices, int):
        if not (1 <= devices <= most or (devices == -1 and kind != "cpu")):
            raise wrong
    elif (
        kind == "cpu"
        or not devices
        or len(set(devices)) < len(devices)
        or not all(0 <= d < most for d in devices)
    ):
        raise wrong
