"""``--optimizer`` and ``--lr_scheduler``: torch's, or one's own, in the place of Adam with its warm-up and cosine."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import instantiate_class

from lit_cartridges.errors import SettingError

# What our own optimizer and schedule are made of, which another one would not look at.
_OF_ADAM = ("learning_rate", "betas")
_OF_SCHEDULE = ("warmup_steps", "final_lr_share")


def use_optimizer(module: Any, optimizer: Namespace | None, scheduler: Namespace | None) -> None:
    """Let ``module`` train with these, each a ``class_path`` and its ``init_args``, or None.

    Raises:
        SettingError: it cannot be made of these options, or settings of the one that it replaces are given as well.
    """
    if not optimizer and not scheduler:
        return
    replaced = "optimizer" if optimizer else "lr_scheduler"
    _require_default(module, (*_OF_ADAM, *_OF_SCHEDULE) if optimizer else _OF_SCHEDULE, replaced)
    module.use_optimizer(
        partial(_made, "optimizer", optimizer) if optimizer else None,
        partial(_made, "lr_scheduler", scheduler) if scheduler else None,
    )


def _require_default(module: Any, names: tuple[str, ...], replaced: str) -> None:
    known = inspect.signature(type(module)).parameters
    given = {
        f"model.{name}": getattr(module, name)
        for name in names
        if name in known and getattr(module, name) != known[name].default
    }
    if given:
        defaults = ", ".join(str(known[name.removeprefix("model.")].default) for name in given)
        raise SettingError(
            f"has no effect with --{replaced}, whose options say it; leave it at its default ({defaults})",
            given,
        )


def _made(setting: str, init: Namespace, of: Any) -> Any:
    try:
        return instantiate_class((of,), init.as_dict())
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        name = str(init["class_path"]).rpartition(".")[2]
        raise SettingError(f"cannot be made: {error}", {setting: name}) from error
