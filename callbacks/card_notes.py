"""What a training notes on its cartridge for the card: how it was made, and what it has reached."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch.callbacks import WeightAveraging

from lit_cartridges.cartridge_files.facts import card_settings, with_scores
from lit_cartridges.provenance import Provenance


def noted(trainer: Any, module: Any) -> Provenance:
    """The cartridge's provenance with the run's settings, and with the scores of this very optimizer step, if there are any.

    Callbacks tell scores by ``scores_at(step)``. Where a callback averages the weights there are none: the average is saved, and
    the cartridge was measured.
    """
    known: Provenance = module.cartridge.provenance
    notes = {name: note for name, note in known.notes.items() if name != "scores"}
    notes["settings"] = card_settings(module.resumption.settings(trainer))
    known = replace(known, notes=notes)
    if any(isinstance(one, WeightAveraging) for one in trainer.callbacks):
        return known
    tellers = [one for one in trainer.callbacks if hasattr(one, "scores_at")]
    scores = [score for one in tellers for score in one.scores_at(trainer.global_step)]
    return with_scores(known, scores) if scores else known
