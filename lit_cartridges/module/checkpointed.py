"""What goes into a checkpoint and comes back: the cartridge alone, the run's settings, and whom the cartridge is for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.conversations.student import StudyData
from lit_cartridges.models.base_weights import base_of, digest_of
from lit_cartridges.module import from_checkpoint
from lit_cartridges.module.from_checkpoint import require_same_weights
from lit_cartridges.module.frozen_parts import HoldsFrozenModels
from lit_cartridges.module.new_cartridge import cartridge_of
from lit_cartridges.runs.resuming import KEY, Resumption
from lit_cartridges.runs.run_progress import recount_batches
from lit_cartridges.runs.run_settings import constructed, model_identity


class Checkpointed(HoldsFrozenModels):
    """A module whose checkpoints hold its cartridge and never the frozen weights.

    Attributes:
        cartridge: None until a strategy, a checkpoint or the init gives one.
        resumption: the settings of the run, and of the checkpoint that it goes on from.
    """

    cartridge: Cartridge | None
    dtype_name: str

    def __init__(self) -> None:
        super().__init__()
        self.cartridge = None
        self.resumption = Resumption(self)
        self._data: StudyData | None = None
        self._made_with = ""  # the digest of the weights that a checkpoint's cartridge was made with

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """A module with a checkpoint's settings and its cartridge; its frozen model loads when a trainer begins with it.

        Args:
            checkpoint_path: one of a run: ``checkpoints/last.ckpt``.
            map_location: where the cartridge goes.
            hparams_file, strict, weights_only: Lightning's. They change nothing: the checkpoint holds its settings, all of its
                cartridge is read, and nothing but tensors and plain values ever is.
            kwargs: settings in the place of the checkpoint's: ``model="folder"`` where the model has moved. How it is loaded
                (``token``, ``trust_remote_code``, ``device_map``) is not the checkpoint's to say.

        Raises:
            CheckpointFileError: no such file, or a damaged or foreign one.
            SettingError: a size that the cartridge does not have.
        """
        checkpoint = from_checkpoint.read(checkpoint_path, map_location)
        module = cls(**from_checkpoint.settings_of(checkpoint, cls, kwargs))
        module.cartridge = from_checkpoint.restored_cartridge(checkpoint, module)
        module._made_with = checkpoint["cartridge"].get("digest", "")
        return module

    def require_its_model(self) -> None:
        """A cartridge of `load_from_checkpoint` meets its model here."""
        assert self.cartridge is not None and self.student is not None
        if not self._made_with:
            return
        self.cartridge.require_fit(self.student)
        base = base_of(self.student)
        self.cartridge.provenance = replace(self.cartridge.provenance, base=base)
        require_same_weights(self._made_with, digest_of(self.cartridge.provenance), self.model_name)

    def state_dict(  # type: ignore[override]
        self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """The cartridge alone: the frozen weights never enter a checkpoint, nor are they gathered for one."""
        state: dict[str, Any] = {} if destination is None else destination
        if self.cartridge is not None:
            self.cartridge.state_dict(destination=state, prefix=f"{prefix}cartridge.", keep_vars=keep_vars)
        return state

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load the cartridge from a checkpoint; one of its shape is made where there is none yet."""
        if self.cartridge is None:
            self.cartridge = cartridge_of(state_dict)
        own = {name.removeprefix("cartridge."): tensor for name, tensor in state_dict.items()}
        return self.cartridge.load_state_dict(own, strict=strict, assign=assign)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember what the cartridge is for, so that another model's checkpoint is refused."""
        assert self.cartridge is not None
        known = self.cartridge.provenance
        checkpoint["cartridge"] = {
            "base_model": known.base_model,
            "corpus_sha256": known.corpus_sha256,
            "num_tokens": self.cartridge.num_tokens,
            "num_frozen_tokens": self.cartridge.num_frozen_tokens,
            "init": known.init,
            "digest": digest_of(known),
        }

        checkpoint[KEY] = self.resumption.settings(self.trainer)

    def run_settings(self) -> dict[str, Any]:
        """See `lit_cartridges.runs.run_settings`. An attribute of another name than the argument's is told here."""
        of_data = {} if self._data is None else self._data.run_settings()
        dtype: str = self.dtype_name
        if dtype == "auto" and (known := self.model_config.get_text_config().dtype) is not None:
            dtype = str(known).removeprefix("torch.")
        return of_data | constructed(
            self,
            "model",
            model=model_identity(self.model_name),
            teacher_model=model_identity(self.teacher_name),
            revision=self._student.revision,
            token=None,
            trust_remote_code=self._student.trust_remote_code,
            device_map=self._student.device_map,
            quantization_config=self._student.quantization_config,
            dtype=dtype,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other settings; count batches as this run's processes will."""
        assert self.cartridge is not None
        self.resumption.accept(checkpoint, self.trainer)
        known = dict(checkpoint.get("cartridge", {}))
        init = known.pop("init", self.cartridge.provenance.init)  # of the run that began, whatever is set now
        mine = digest_of(self.cartridge.provenance)
        require_same_weights(known.pop("digest", ""), mine, self.model_name)
        self.cartridge.provenance = replace(self.cartridge.provenance, init=init)
        recount_batches(checkpoint, self.trainer.accumulate_grad_batches, self.trainer.limit_train_batches)
