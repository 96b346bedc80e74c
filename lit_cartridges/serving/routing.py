"""Routers of the cartridges on the shelf: which chats are answered without the cartridge that they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.errors import CartridgesError
from lit_cartridges.routing.embedding import QuestionEmbedder
from lit_cartridges.routing.question_span import QuestionSpan
from lit_cartridges.routing.router import Route, Router, RouterError, best_route
from lit_cartridges.routing.router_file import ROUTER, load_router
from lit_cartridges.serving.refusals import Refusal
from lit_cartridges.serving.residents import ICL
from lit_cartridges.serving.shelf import Shelf, Shelved, Stamp, stamp_of

HEADER = "X-Lit-Cartridges-Router"
_MOST_BYTES = 10**9  # of routers that are kept


class ShelvedRouters:
    """See the module; threads may share one. Files are looked at anew for every request, as cartridges are; the routers that were
    asked last are kept.

    Args:
        model: gives the model that reads questions, when a router is first met.
        renderer: of the prompts.
    """

    def __init__(self, shelf: Shelf, model: Callable[[], Any], renderer: ChatRenderer) -> None:
        self.shelf, self._model = shelf, model
        # Now: a tokenizer serves one thread at a time.
        self._renderer, self._span = renderer, QuestionSpan(renderer)
        self._embedder: QuestionEmbedder | None = None
        self._known: dict[str, tuple[tuple[Stamp, Stamp], Router]] = {}
        self._lock = Lock()

    def prepare(self) -> None:
        """Have the model, where a cartridge on the shelf has a router."""
        if any(self._stamp(one) for one in self.shelf.all()):
            self._reader()

    def of(self, names: Sequence[str]) -> list[Router]:
        """The routers of these cartridges; none where one of them has none.

        Raises:
            Refusal: a cartridge is not there, or its router is damaged or another's.
        """
        if any(name.endswith(ICL) for name in names):
            return []
        found = [self._router(self.shelf.find(name)) for name in names]
        return [one for one in found if one is not None] if all(found) else []

    def route(self, routers: Sequence[Router], ids: Sequence[int]) -> Route | None:
        """Of a chat's token ids from its beginning.

        Raises:
            Refusal: the model's vector of it is of no use.
        """
        embedder = self._reader()
        try:
            return best_route(routers, lambda layer: embedder.embed([ids], layer)[0])
        except RouterError as error:
            raise _refusal(str(error)) from error

    def _router(self, one: Shelved) -> Router | None:
        stamp = self._stamp(one)
        if stamp is None:
            return None
        with self._lock:
            known = self._known.get(one.name)
            if known is not None and known[0] == (one.stamp, stamp):
                self._known[one.name] = self._known.pop(one.name)
                return known[1]
        embedder = self._reader()
        try:
            router = load_router(one.folder)
            if router is not None:
                router.require_model(embedder.model)
        except (CartridgesError, OSError) as error:
            raise _refusal(self.shelf.plainly(error)) from error
        if router is not None:
            with self._lock:
                self._known.pop(one.name, None)
                self._known[one.name] = (one.stamp, stamp), router
                while (
                    sum(kept.nbytes for _, kept in self._known.values()) > _MOST_BYTES
                    and len(self._known) > 1
                ):
                    del self._known[next(iter(self._known))]
        return router

    def _stamp(self, one: Shelved) -> Stamp | None:
        file = one.folder / ROUTER
        try:
            inside = file.resolve(strict=True).is_relative_to(self.shelf.folder)
            return stamp_of(file) if inside else None
        except (OSError, RuntimeError):
            return None

    def _reader(self) -> QuestionEmbedder:
        with self._lock:
            if self._embedder is None:
                self._embedder = QuestionEmbedder(self._model(), self._renderer, span=self._span)
            return self._embedder


def _refusal(told: str) -> Refusal:
    return Refusal(told, param="model", code="bad_router")


def header(route: Route) -> str:
    """What the answer's header says."""
    what = "on-corpus" if route.reads else "off-corpus"
    return f"{what}; score={route.score:.4f}; threshold={route.threshold:.4f}"
