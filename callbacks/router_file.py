"""A router beside the cartridge, when its training has ended."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng

from lit_cartridges.callbacks.cartridge_checkpoint import CartridgeCheckpoint
from lit_cartridges.callbacks.periodic_eval import material_of
from lit_cartridges.cartridge_files import TENSORS
from lit_cartridges.errors import SettingError
from lit_cartridges.routing import save_router
from lit_cartridges.routing.embedding import QuestionEmbedder
from lit_cartridges.routing.making import RouterSettings, make_router
from lit_cartridges.routing.question_texts import read_questions, recorded_questions
from lit_cartridges.routing.router_file import owner_of
from lit_cartridges.settings import Count, OpenShare, PositiveShare, ReadPath, Seed, checked
from lit_cartridges.strategies.frozen_models import in_step

_tell = rank_zero_only(logging.getLogger(__name__).warning)
_FOLDERS = ("cartridge", "cartridge-best")


class RouterFile(L.Callback):
    """Makes the cartridge's router at the end of ``fit``, as ``lit-cartridges router`` does afterwards (see docs/router.md).

    It is made of the run's recorded questions, and written beside the saved cartridges. A run that was stopped has none.

    Args:
        negatives: requests that are not about the corpus, as ``lit-cartridges router`` takes them; by default the model writes
            some.
        alpha: the share of requests like the negatives that may be answered with the cartridge.
        nearest: recorded questions that a question is compared with.
        depth: the layer whose hidden states are compared, as a share of all.
        num_questions: recorded questions to use at most.
        num_negatives: requests to use at most, or to have written.
        seed: of what is drawn and written.
    """

    @checked
    def __init__(
        self,
        *,
        negatives: ReadPath | None = None,
        alpha: OpenShare = 0.05,
        nearest: Count = 10,
        depth: PositiveShare = 0.5,
        num_questions: Count = 2000,
        num_negatives: Count = 400,
        seed: Seed = 0,
    ) -> None:
        self.settings = RouterSettings(
            alpha=alpha,
            nearest=nearest,
            depth=depth,
            num_questions=num_questions,
            num_negatives=num_negatives,
            seed=seed,
        )
        self.negatives_from = "" if negatives is None else Path(negatives).name
        self.negatives = None if negatives is None else read_questions(negatives)
        if self.negatives is not None:
            self.settings.require_enough(len(self.negatives), negatives=str(negatives))

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """See that there will be questions, before the model is loaded.

        Raises:
            SettingError: the run's data has none.
        """
        if stage == "fit":
            material_of(pl_module, self)
            _recording(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """After the last save."""
        saver = next((one for one in trainer.callbacks if isinstance(one, CartridgeCheckpoint)), None)  # type: ignore[attr-defined]
        if trainer.fast_dev_run or (saver is not None and saver.interrupted):  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir if saver is None or saver.folder is None else saver.folder)
        with in_step(trainer.strategy), isolate_rng():
            places = [folder / name for name in _FOLDERS if (folder / name / TENSORS).is_file()]
            if not trainer.is_global_zero or not places:
                return
            owner, renderer = owner_of(places[0]), material_of(pl_module, self).renderer
            router = make_router(
                QuestionEmbedder(pl_module.student, renderer),
                recorded_questions(_recording(trainer), corpus_sha256=owner.corpus_sha256),
                self.negatives,
                self.settings,
                owner=owner,
                negatives_from=self.negatives_from,
            ).router
            for place in places:
                save_router(router, place)
        _tell("router of %d questions beside the cartridge", len(router.questions))


def _recording(trainer: L.Trainer) -> Path:
    source: Any = getattr(getattr(trainer, "datamodule", None), "source", None)
    if hasattr(source, "path"):
        return Path(source.path)
    if not hasattr(source, "recording_folder"):
        raise SettingError(
            "needs recorded questions: set data.source to SelfStudy or Recorded", callback="RouterFile"
        )
    return Path(source.recording_folder or Path(trainer.default_root_dir) / "recording")
