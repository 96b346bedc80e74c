"""A router out of questions that are the corpus's and requests that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lit_cartridges.errors import SettingError
from lit_cartridges.routing.embedding import QuestionEmbedder
from lit_cartridges.routing.general_requests import general_requests
from lit_cartridges.routing.router import Owner, Router, conformal_threshold, nearest_mean
from lit_cartridges.settings import Count, OpenShare, PositiveShare, Seed, check_fields

HELD_OUT_OF = 5
"""One text of so many is kept out of the router, to be measured with."""


@dataclass(frozen=True, kw_only=True)
class RouterSettings:
    """How a router is made.

    Args:
        alpha: the share of general requests that may be answered with the cartridge.
        nearest: stored questions that a score is the mean over.
        depth: the layer whose hidden states are read, as a share of all.
        num_questions: recorded questions to use at most.
        num_negatives: general requests to use at most, or to have written.
        seed: of what is drawn and written.
    """

    alpha: OpenShare = 0.05
    nearest: Count = 10
    depth: PositiveShare = 0.5
    num_questions: Count = 2000
    num_negatives: Count = 400
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_fields(self)
        self.require_enough(self.num_negatives, num_negatives=self.num_negatives)

    def require_enough(self, count: int, /, **named: object) -> None:
        """Raise SettingError, which names these settings, where so many negatives, of which a fifth is held out, give no
        threshold."""
        used = min(count, self.num_negatives)
        try:
            conformal_threshold([0.0] * (used - used // HELD_OUT_OF), self.alpha)
        except ValueError as error:
            raise SettingError(
                f"{error} beside the fifth that is held out; give more, or a larger alpha",
                {**named, "alpha": self.alpha},
            ) from error


@dataclass(frozen=True)
class Split:
    """Texts to make a router with, and others to measure it with."""

    used: list[str]
    held_out: list[str]

    @classmethod
    def of(cls, texts: Sequence[str], most: int, *, seed: int) -> Split:
        """At most ``most`` of ``texts``, drawn by ``seed``."""
        drawn = [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))[:most]]
        held_out = len(drawn) // HELD_OUT_OF
        return cls(drawn[held_out:], drawn[:held_out])


@dataclass(frozen=True, kw_only=True)
class Made:
    """A router, and what it was made of."""

    router: Router
    questions: Split
    negatives: Split


def make_router(
    embedder: QuestionEmbedder,
    questions: Sequence[str],
    negatives: Sequence[str] | None,
    settings: RouterSettings,
    *,
    owner: Owner,
    negatives_from: str = "",
    progress: bool = False,
) -> Made:
    """See the module.

    Args:
        questions: about the corpus.
        negatives: requests that are not; None has the model write some.
        negatives_from: what the router's file says of them.

    Raises:
        SettingError: too few negatives for `RouterSettings.alpha`.
        RouterError: the model writes too few, or its hidden states are of no use (see `QuestionEmbedder.embed`).
    """
    if negatives is None:
        model, renderer = embedder.model, embedder.renderer
        count, negatives_from = settings.num_negatives, "written by the model"
        negatives = general_requests(model, renderer, count, seed=settings.seed, progress=progress)
    settings.require_enough(len(negatives), negatives=negatives_from)
    asked = Split.of(questions, settings.num_questions, seed=settings.seed)
    others = Split.of(negatives, settings.num_negatives, seed=settings.seed)
    num_layers = embedder.model.config.get_text_config().num_hidden_layers
    layer = max(1, round(settings.depth * num_layers))
    stored = embedder.embed_questions(asked.used, layer).to(torch.float16)
    router = Router(
        questions=stored,
        negatives=nearest_mean(
            embedder.embed_questions(others.used, layer), stored.float(), settings.nearest
        ),
        alpha=settings.alpha,
        nearest=settings.nearest,
        layer=layer,
        num_layers=num_layers,
        owner=owner,
        negatives_from=negatives_from,
    )
    return Made(router=router, questions=asked, negatives=others)
