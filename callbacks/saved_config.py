"""The resolved config beside a run that the command line has started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from lit_cartridges.command_line.own_classes import with_classes
from lit_cartridges.data import SelfStudyDataModule
from lit_cartridges.module import LitCartridge
from lit_cartridges.runs.atomic_files import write_atomically
from lit_cartridges.runs.run_settings import flat


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config to the run's folder, once its training begins: one that may not go on changes nothing.

    Attributes:
        knows_the_command_line: `run_settings` begins with what this callback tells.
    """

    knows_the_command_line = True

    def __init__(self, parser: LightningArgumentParser, config: Any, **kwargs: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Nothing yet."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The checkpoint, if there is one, has been accepted by now."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().setup(trainer, pl_module, "fit")

    def run_settings(self) -> dict[str, Any]:
        """Every setting as it was typed, and the defaults; see `lit_cartridges.runs.run_settings`."""
        known: dict[str, Any] = {"optimizer": None, "lr_scheduler": None}  # the parser knows them where given
        for name, value in self.config.as_dict().items():
            group = isinstance(value, dict) and "class_path" not in value
            known |= flat(value, name) if group else flat({name: value})
        return known

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """See the class."""
        if stage == "fit":
            config = self.config.clone()
            # A secret; and what a dump writes in its place is no token.
            config["model.token"] = None
            own = {
                key: kind
                for key, kind, ours in (
                    ("model", type(pl_module), LitCartridge),
                    ("data", type(trainer.datamodule), SelfStudyDataModule),  # type: ignore[attr-defined]
                )
                if kind is not ours
            }
            text = with_classes(self.parser.dump(config, skip_unset=False), own)
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "config.yaml", text.encode())
