"""What `LitCartridge` and its data ask of a strategy that may shard frozen models; other strategies need not answer."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from transformers import PretrainedConfig, PreTrainedModel

from lit_cartridges.models import load_config, load_model, load_tokenizer, locate
from lit_cartridges.models.places import Place
from lit_cartridges.models.readable import require_readable


@dataclass(frozen=True, kw_only=True)
class FrozenModel:
    """A frozen model of a run: its name and all that loading it takes (see `load_model`).

    Args:
        setting: how the user calls the setting that holds ``name``.
    """

    setting: str
    name: str
    dtype: str
    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    trust_remote_code: bool = False
    device_map: str | dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None

    @property
    def hub(self) -> dict[str, Any]:
        """The options of `load_config` and `load_tokenizer`."""
        names = ("setting", "revision", "token", "trust_remote_code")
        return {name: getattr(self, name) for name in names}

    def place(self) -> Place:
        """Where its files are."""
        return locate(self.name, revision=self.revision, token=self.token, setting=self.setting)

    def config(self) -> PretrainedConfig:
        """Its config."""
        return load_config(self.name, **self.hub)

    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return load_tokenizer(self.name, **self.hub)

    @property
    def options(self) -> dict[str, Any]:
        """The options of `load_frozen_model`, but for the device."""
        held = {"device_map": self.device_map, "quantization_config": self.quantization_config}
        return {"dtype": self.dtype, **self.hub, **held}

    def require_loadable(self, strategy: Any) -> None:
        """Raise ValueError, before anything is loaded, when it cannot read or the strategy cannot hold such a model."""
        require_readable(self.config())
        kind = type(strategy).__name__
        if self.device_map is not None and not isinstance(strategy, SingleDeviceStrategy):
            raise ValueError(
                f"model.device_map={self.device_map!r} with trainer.strategy={kind}: each process would spread a model "
                "over all devices; leave model.device_map out, or set trainer.devices=1 and trainer.strategy=auto"
            )
        if not getattr(strategy, "shards_frozen_models", False):
            return
        if self.quantization_config is not None:
            what = f"model.quantization_config={self.quantization_config}: quantised weights"
        elif getattr(self.config(), "quantization_config", None) is not None:
            what = f"{self.setting}={self.name!r}: quantised weights, as its config says they are,"
        elif self.place().adapter:
            what = f"{self.setting}={self.name!r}: a PEFT adapter's weights"
        else:
            return
        raise ValueError(
            f"{what} cannot be sharded by {kind} of stage 3; set trainer.strategy.stage=2, or give a plain model"
        )


def load_frozen_model(
    strategy: Any, name: str, *, dtype: str, device: torch.device, **options: Any
) -> PreTrainedModel:
    """The model as the strategy wants it; whole and on ``device`` unless it says otherwise.

    Args:
        options: of `load_model`.
    """
    if hasattr(strategy, "load_frozen_model"):
        model: PreTrainedModel = strategy.load_frozen_model(name, dtype=dtype, **options)
        return model
    return load_model(name, dtype=dtype, device=device, **options)


def in_step(strategy: Any) -> AbstractContextManager[None]:
    """A section in which processes may run frozen models unequally often, which all enter together."""
    section: Any = getattr(strategy, "in_step", nullcontext)
    return section()
