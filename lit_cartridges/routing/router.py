"""The router of a cartridge (Cartridges++): is a question near those that the cartridge learned from?

score      mean cosine to the ``nearest`` stored questions
threshold  conformal, of the scores of general requests: at most a share ``alpha`` of such requests lies above it
above it   the question is answered with the cartridge; else by the model alone
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from torch import Tensor

from lit_cartridges.errors import CartridgesError
from lit_cartridges.models.base_weights import base_of


class RouterError(CartridgesError, ValueError):
    """A router that cannot be made or used; the message says why and what would work."""


@dataclass(frozen=True)
class Route:
    """A question's score, and whether it is answered with the cartridge."""

    score: float
    threshold: float

    @property
    def reads(self) -> bool:
        """Whether the cartridge is read."""
        return self.score > self.threshold

    def __str__(self) -> str:
        if self.reads:
            return f"about the corpus (score {self.score:.3f}, above {self.threshold:.3f})"
        return f"not about the corpus (score {self.score:.3f}, not above {self.threshold:.3f})"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """What a router belongs to; what is not known is empty.

    Args:
        base_model, digest: of the model, and of its weights.
        corpus_sha256: of the cartridge.
        tensors_sha256: of the cartridge too, for where there is no corpus.
    """

    base_model: str = ""
    digest: str = ""
    corpus_sha256: str = ""
    tensors_sha256: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Router:
    """See the module.

    Args:
        questions: fp16 [questions, width], each of length 1.
        negatives: fp32 [negatives], the scores of general requests.
        alpha: the share of such requests that may be taken for the corpus's.
        nearest: questions that a score is the mean over.
        layer: whose hidden states are the vectors, of ``num_layers``.
        negatives_from: where the general requests come from, for people.
    """

    questions: Tensor
    negatives: Tensor
    alpha: float
    nearest: int
    layer: int
    num_layers: int
    owner: Owner
    negatives_from: str = ""
    threshold: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", conformal_threshold(self.negatives.tolist(), self.alpha))

    @property
    def nbytes(self) -> int:
        """Of the questions, in fp16 and as they are compared."""
        return 3 * self.questions.nbytes

    def scores(self, vectors: Tensor) -> Tensor:
        """fp32 [n] of ``vectors`` [n, width]."""
        return nearest_mean(vectors, self._wide, self.nearest)

    def route(self, vector: Tensor) -> Route:
        """Of one question's vector [width]."""
        return Route(float(self.scores(vector[None])[0]), self.threshold)

    def require_model(self, model: Any) -> None:
        """Raise RouterError where the model is another than that of the router."""
        text, digest = model.config.get_text_config(), base_of(model).get("digest", "")
        ours, theirs = (
            (self.num_layers, self.questions.shape[1]),
            (text.num_hidden_layers, text.hidden_size),
        )
        what = ""
        if ours != theirs:
            what = f"(layers, width) {ours} against {theirs}"
        elif digest and self.owner.digest not in ("", digest):
            what = f"weights of digest {self.owner.digest[:12]} against {digest[:12]}"
        if what:
            raise RouterError(
                f"the router was made with another model ({self.owner.base_model or 'not named'}): {what}; make it anew by "
                "`lit-cartridges router`, or go without by --router off"
            )

    @cached_property
    def _wide(self) -> Tensor:
        return self.questions.float()


def nearest_mean(vectors: Tensor, questions: Tensor, nearest: int) -> Tensor:
    """Mean cosine [n] of unit ``vectors`` [n, width] to the ``nearest`` of unit ``questions`` [m, width]."""
    return (vectors @ questions.T).topk(min(nearest, len(questions))).values.mean(dim=1)


def best_route(routers: Sequence[Router | None], embed: Callable[[int], Tensor]) -> Route | None:
    """Of a question to one cartridge, or to several as one, which are read whole or not at all: read if one of the routers says
    so. None where one of the cartridges has no router, and so is read always.

    Args:
        embed: the question's vector [width] after a layer.
    """
    if not routers or any(router is None for router in routers):
        return None
    vector = cache(embed)
    routes = [router.route(vector(router.layer)) for router in routers if router is not None]
    return max(routes, key=lambda route: route.score - route.threshold)


def conformal_threshold(negatives: Sequence[float], alpha: float) -> float:
    """Split conformal prediction's: the ⌈(N + 1)(1 − alpha)⌉-th smallest of N scores.

    A new score that is exchangeable with them is above it with probability alpha at most, whatever their distribution.

    Raises:
        ValueError: so few scores that no threshold among them has that property.
    """
    place = len(negatives) + 1 - math.floor((len(negatives) + 1) * alpha + 1e-9)
    if place > len(negatives):
        needed = math.ceil(1 / alpha - 1e-9) - 1
        raise ValueError(f"a threshold needs at least {needed} negatives, and there are {len(negatives)}")
    return float(sorted(negatives)[place - 1])
