"""LightningCLI for cartridges: loggers in the run's folder, resumption by default, the resolved config beside the run.

A run's folder (``trainer.default_root_dir``) holds ``config.yaml``, ``checkpoints/``, ``cartridge/``, ``recording/`` and
``logs/``.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import capture_parser
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_cartridges.callbacks import (
    CartridgeCheckpoint,
    PredictionFile,
    StepProgress,
    TextSamples,
    ThroughputMonitor,
)
from lit_cartridges.callbacks.saved_config import SaveConfig
from lit_cartridges.command_line import TRAINER_COMMANDS
from lit_cartridges.command_line.config_files import installed, require_config_files
from lit_cartridges.command_line.ending import causes, one_line
from lit_cartridges.command_line.given import given_settings
from lit_cartridges.command_line.optimizers import use_optimizer
from lit_cartridges.command_line.outcome import outcome
from lit_cartridges.command_line.own_classes import TrainerParser, own_class
from lit_cartridges.command_line.trainer_settings import blamed, require_trainer
from lit_cartridges.data import SelfStudy, SelfStudyDataModule
from lit_cartridges.errors import SettingError, is_ours
from lit_cartridges.module import LitCartridge
from lit_cartridges.runs.atomic_files import explained
from lit_cartridges.runs.checkpoint_files import LAST, problem, resume_path, set_aside
from lit_cartridges.runs.moved_settings import refuse_moved
from lit_cartridges.runs.precision import require_full_precision
from lit_cartridges.runs.resuming import read_checkpoint
from lit_cartridges.settings import Seed, require
from lit_cartridges.terminal import printable_line

TrainerParser.roots = {
    "trainer": L.Trainer,
    "model": LitCartridge,
    "data": SelfStudyDataModule,
    "checkpoint": CartridgeCheckpoint,
    "optimizer": Optimizer,
    "lr_scheduler": LRScheduler,
}


class CartridgeCLI(LightningCLI):
    """``fit --config recipe.yaml [--model.init NAME --model.init.option value …]``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        first = next(iter(options.get("args") or ()), "")
        self._args = list(options.get("args") or ())
        self._asked = first if first in LightningCLI.subcommands() else None
        if self._asked:  # the usage of Lightning's parser is a page with every option
            usage = f"lit-cartridges {first} --config RECIPE [options]"
            options["parser_kwargs"][first] = {"usage": usage, "description": TRAINER_COMMANDS[first]}
        super().__init__(*args, **options)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Lightning's; the asked one alone where one is, since every one has a parser that takes long to build."""
        known = LightningCLI.subcommands()
        return known if self._asked is None else {self._asked: known[self._asked]}

    @classmethod
    def run_with(cls, args: list[str] | None, *, run: bool = True) -> CartridgeCLI:
        """Parse ``args`` and run their command, or only build model and data (``run=False``, no command in front).

        ``--config NAME.yaml`` may name an installed recipe where there is no such file.
        """
        args = [installed(arg) for arg in (sys.argv[1:] if args is None else args)]
        require_config_files(args)
        refuse_moved({given.key: given.value for given in given_settings(args)})
        model, args = own_class("model", LitCartridge, args)
        data, args = own_class("data", SelfStudyDataModule, args)
        TrainerParser.roots = {**TrainerParser.roots, "model": model, "data": data}
        return cls(
            model,
            data,
            args=args,
            run=run,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            load_from_checkpoint_support=False,  # a checkpoint's settings are compared, not taken over
            parser_class=TrainerParser,
            parser_kwargs={"parser_mode": "omegaconf"},
            trainer_defaults={
                "max_steps": 1000,
                "log_every_n_steps": 10,
                "num_sanity_val_steps": 0,
                "default_root_dir": "runs/cartridge",
                "enable_model_summary": False,
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """``--checkpoint.…`` and, for ``fit``, ``--resume``; Lightning adds ``--optimizer`` and ``--lr_scheduler``."""
        parser.add_lightning_class_args(CartridgeCheckpoint, "checkpoint")
        # So that --data.source.max_chunk_tokens needs no --data.source SelfStudy before it.
        parser.set_defaults({"data.source": {"class_path": f"{SelfStudy.__module__}.{SelfStudy.__name__}"}})
        parser.add_argument(
            "--resume",
            default="auto",
            help="'auto' goes on from the run folder's last checkpoint if there is one; 'never' starts anew; or a path",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Lightning's; then what can be refused before anything is built."""
        super().parse_arguments(parser, args)
        subcommand = self.config.get("subcommand")
        settings = self.config[subcommand] if subcommand else self.config
        require("seed_everything", settings.seed_everything, bool | Seed)
        require_trainer(settings.trainer.as_dict(), training=subcommand in ("fit", None))
        resume = str(settings.resume)
        for name, path in (
            ("ckpt_path", settings.get("ckpt_path")),
            ("resume", None if resume in ("auto", "never") else resume),
        ):
            if path is not None:
                _require_checkpoint(name, Path(path))

    def instantiate_classes(self) -> None:
        """Lightning's; what cannot be built without one option less is that option's fault."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            chain = [error, *causes(error)]
            if any(is_ours(one) for one in chain):
                raise
            missing = next((f": {one_line(str(one))}" for one in chain if isinstance(one, ImportError)), "")
            for place, flag in enumerate(self._args):
                end = place + (1 if "=" in flag else 2)
                if flag.startswith("--") and self._is_built(self._args[:place] + self._args[end:]):
                    told = f"{flag} {' '.join(self._args[place + 1 : end])}".rstrip()
                    raise SettingError(f"{told}: nothing can be built of this{missing}") from error
            raise

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        """Lightning would make the optimizer now, of tensors that do not exist yet."""
        named = (self._get(self.config_init, name) for name in ("optimizer", "lr_scheduler"))
        use_optimizer(self.model, *named)

    def _is_built(self, args: list[str]) -> bool:
        with redirect_stderr(StringIO()):
            try:
                self.parser.instantiate_classes(self.parser.parse_args(args))
            except (SystemExit, Exception):
                return False
        return True

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        try:
            return super()._instantiate_trainer(config, callbacks)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
            raise blamed(config, error) from error

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Progress, throughput and loggers are always there; a recipe adds callbacks and may replace the loggers."""
        config = self._get(self.config_init, "trainer", default={})
        root = str(config["default_root_dir"])
        require_full_precision(config.get("precision"))  # Lightning would first ask for a missing package
        if config.get("logger") in (None, True):
            csv = CSVLogger(root, name="logs")
            kwargs["logger"] = [csv, TensorBoardLogger(root, name="logs", version=csv.version)]
        if self.subcommand == "fit" and config.get("val_check_interval") is None:
            kwargs["limit_val_batches"] = 0  # else Lightning would validate whenever training is stopped
        if config.get("devices") in (None, "auto") and "LOCAL_WORLD_SIZE" in os.environ:
            # As many as torchrun has started; Lightning would take every GPU, or one CPU, and refuse another number.
            kwargs["devices"] = int(os.environ["LOCAL_WORLD_SIZE"])
        callbacks = config.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        # First, so that what the others do after a batch does not count as training.
        kwargs["callbacks"] = [ThroughputMonitor(), *callbacks]
        if not any(isinstance(callback, TextSamples) for callback in callbacks):
            kwargs["callbacks"].append(TextSamples())
        if self.subcommand == "predict":
            kwargs["callbacks"].append(PredictionFile())
        if config.get("enable_progress_bar") is not False and not any(
            isinstance(callback, ProgressBar) for callback in callbacks
        ):
            kwargs["callbacks"].append(StepProgress())
        if config.get("plugins") is None and SLURMEnvironment.detect():
            # A job is started again by its script (recipes/slurm), from a checkpoint between two steps. Lightning, told by
            # SIGUSR1, would save in the middle of one and requeue the job by itself.
            kwargs["plugins"] = [SLURMEnvironment(auto_requeue=False)]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Hold the run's folder, before it is looked at for a checkpoint."""
        self._checkpoint.hold_folder(self.trainer)

    def after_fit(self) -> None:
        """Say what came of it. End with the status of a process that the signal killed (143 of SIGTERM, 130 of Ctrl-C) where
        one stopped the run before its end, so that a cluster's script starts it again."""
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print("\n".join(outcome(self.trainer, self._checkpoint)))
        if any(getattr(callback, "terminated", False) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise SystemExit(128 + signal.SIGTERM)
        if any(getattr(callback, "interrupted", False) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise SystemExit(128 + signal.SIGINT)

    def after_predict(self) -> None:
        """Say where the losses are."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, PredictionFile) and callback.path is not None:
                print(printable_line(f"per-token losses: {callback.path}"))

    @property
    def _checkpoint(self) -> CartridgeCheckpoint:
        return next(c for c in self.trainer.callbacks if isinstance(c, CartridgeCheckpoint))  # type: ignore[attr-defined]

    def _run_subcommand(self, subcommand: str) -> None:
        """Lightning's, with the statuses of `after_fit` for a run that is stopped at once, and words for a full disk."""
        try:
            super()._run_subcommand(subcommand)
        except SIGTERMException:
            raise SystemExit(128 + signal.SIGTERM) from None
        except KeyboardInterrupt:
            raise SystemExit(128 + signal.SIGINT) from None
        except SystemExit as end:
            if isinstance(end.__context__, KeyboardInterrupt):  # Lightning has answered it, with status 1
                raise SystemExit(128 + signal.SIGINT) from None
            raise
        except OSError as error:
            raise explained(error, Path(self.trainer.default_root_dir)) from error
        finally:
            self._checkpoint.leave_folder()  # where nothing has begun

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        # Checkpoints hold tensors and plain values only, so no pickle needs to be trusted.
        kwargs["weights_only"] = True
        given = kwargs.pop("ckpt_path", None)
        resume = str(self._get(self.config_init, "resume"))
        if given is None and resume not in ("auto", "never"):
            given = resume
        self.model.connect(self.datamodule)
        path = Path(given) if given is not None else None
        tries = subcommand == "fit" and self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if tries and path is not None:
            raise SettingError(
                "a try of a few batches begins anew; leave one of them out",
                {"trainer.fast_dev_run": tries, "resume": str(path)},
            )
        if path is None and resume == "auto" and not tries:
            path = self._resume_path()
        if path is not None:
            # Set here, where the module sees it before it would compute an init that the checkpoint replaces.
            self.trainer.ckpt_path = str(path)
            if subcommand == "fit":
                # Before the data module looks at the recording, which is of the old settings too.
                self.model.resumption.accept(read_checkpoint(path), self.trainer)
                if given is None and path.name != LAST and self.trainer.is_global_zero:
                    set_aside(path.parent)
        return kwargs

    def _resume_path(self) -> Path | None:
        first = self.trainer.is_global_zero
        checkpoints = (self._checkpoint.folder or Path(self.trainer.default_root_dir)) / "checkpoints"
        path = resume_path(checkpoints, tell=print if first else lambda _: None)
        if path is not None and first:
            print(printable_line(f"going on from {path} (--resume never starts anew)"))
        return path


def _require_checkpoint(name: str, path: Path) -> None:
    """
    Raises:
        SettingError: there is no checkpoint to go on from.
    """
    why = "there is no such file" if not path.is_file() else problem(path)
    if why is not None:
        mend = (
            "auto, never, or a checkpoint" if name == "resume" else "a checkpoint, such as last.ckpt of a run"
        )
        raise SettingError(f"{why}; give {mend}", {name: str(path)})


def trainer_parser(name: str) -> TrainerParser:
    """The parser of ``fit``, ``validate``, ``test`` or ``predict``."""
    parser: Any = capture_parser(lambda: CartridgeCLI.run_with([name]))
    found: TrainerParser = parser._subcommands_action._name_parser_map[name]
    return found
