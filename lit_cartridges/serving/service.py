"""From what was asked to tokens: what is read is taken, the prompt made, the length checked, and the engine given a job."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lit_cartridges.models.position_limit import max_positions
from lit_cartridges.routing.router import Route
from lit_cartridges.serving.asked import Asked, ChatAsked
from lit_cartridges.serving.engine import LocalEngine
from lit_cartridges.serving.job import Engine, EngineError
from lit_cartridges.serving.metrics import Metrics
from lit_cartridges.serving.prompts import Prompts
from lit_cartridges.serving.refusals import Refusal
from lit_cartridges.serving.replies import Replies
from lit_cartridges.serving.residents import Resident, Residents
from lit_cartridges.serving.routing import ShelvedRouters
from lit_cartridges.serving.shelf import Shelf
from lit_cartridges.serving.sources import Sources

_log = logging.getLogger(__name__)
_MOST_PARTS = 16  # of a composition
_LOADERS = 8  # threads that look for cartridges; all but one wait or find theirs in memory


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes at once.

    Args:
        max_rows: replies written at once; more wait.
        max_kv_tokens: rows at once times the longest prompt and reply.
        max_requests: that are open; more are refused.
        max_new_tokens: of a reply where a request does not say.
        max_cartridge_bytes: of the cartridges that are held.
        max_body_bytes: of a request.
    """

    max_rows: int = 32
    max_kv_tokens: int = 65_536
    max_requests: int = 256
    max_new_tokens: int = 512
    max_cartridge_bytes: int = 4 * 10**9
    max_body_bytes: int = 2**20


class Service:
    """What stands behind the routes.

    Args:
        name: the model's, under which no cartridge is read.
        renderer_options: of the prompts (see `ChatRenderer`).
        corpora: token ids by sha256; where one fits the model, NAME:icl reads that of the cartridge NAME in its context.
        residents, engine: made with the options of `Residents` and of `LocalEngine`.
        question_model: gives the model by which cartridges' routers read questions; without it no router is asked.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        shelf: Shelf,
        *,
        name: str,
        limits: Limits,
        metrics: Metrics,
        corpora: Mapping[str, Sequence[int]] | None = None,
        residents: Callable[..., Residents] = Residents,
        engine: Callable[..., Engine] = LocalEngine,
        question_model: Callable[[], Any] | None = None,
        **renderer_options: Any,
    ) -> None:
        self.name, self.shelf, self.limits, self.metrics = name, shelf, limits, metrics
        self.max_positions = max_positions(model.config)
        text = model.config.get_text_config()
        self.vocabulary = int(text.vocab_size)
        self.prompts = Prompts(tokenizer, **renderer_options)
        self.routers: ShelvedRouters | None = None
        if question_model is not None:
            self.routers = ShelvedRouters(shelf, question_model, self.prompts.renderer)
        self.residents = residents(
            shelf,
            model,
            max_bytes=limits.max_cartridge_bytes,
            metrics=metrics,
            corpora=self._fitting_corpora(corpora),
        )
        stops = self.prompts.renderer.stop_token_ids(model.generation_config)
        self.engine = engine(
            model, stop_token_ids=stops, max_rows=limits.max_rows, max_kv_tokens=limits.max_kv_tokens
        )
        self._sources = Sources(shelf)
        self.open_requests = 0
        self._encoder = ThreadPoolExecutor(
            1, thread_name_prefix="encode"
        )  # a tokenizer serves one thread at a time
        self._loader = ThreadPoolExecutor(_LOADERS, thread_name_prefix="load")
        metrics.watch("rows", "Replies that are being written.", lambda: self.engine.rows)
        metrics.watch("waiting", "Requests that wait for a place.", lambda: self.engine.waiting)
        metrics.watch("open_requests", "Requests that are open.", lambda: self.open_requests)
        metrics.watch(
            "cartridges_resident", "Cartridges and compositions in memory.", lambda: self.residents.count
        )
        metrics.watch("cartridge_bytes", "Bytes of these.", lambda: self.residents.nbytes)

    async def open(self, asked: Asked) -> Replies:
        """Begin to answer; to be closed.

        Raises:
            Refusal: what cannot be answered, or not now.
        """
        if self.open_requests >= self.limits.max_requests:
            raise Refusal(
                f"{self.open_requests} requests are open, which is all that this server takes; ask again later",
                status=429,
                code="too_many_requests",
            )
        begun = time.perf_counter()
        self.open_requests += 1
        resident: Resident | None = None
        try:
            loop, names = asyncio.get_running_loop(), self._names(asked.model)
            ids = await loop.run_in_executor(
                self._encoder, lambda: self.prompts.ids(asked, behind=bool(names))
            )
            if not ids:
                raise Refusal("the prompt has no tokens", param="prompt", code="invalid_value")
            self._fitting(asked, len(ids), 0)  # before anything is loaded for it
            route = None
            if names and isinstance(asked, ChatAsked) and asked.routed:
                route, bare = await self._route(names, asked)
                if route is not None and not route.reads:
                    names, ids = [], bare
            if names:
                resident = await loop.run_in_executor(self._loader, self.residents.take, names)
            new = self._fitting(asked, len(ids), 0 if resident is None else resident.num_tokens)
            replies = Replies(self, asked, ids, resident, new, begun, route)
            self.engine.submit(replies.job)
        except BaseException as error:
            self.open_requests -= 1
            if resident is not None:
                self.residents.give_back(resident)
            if isinstance(error, EngineError):
                raise Refusal(str(error), status=503, code="engine_ended") from error
            raise
        self.metrics.prompt_tokens.inc(len(ids))
        return replies

    async def _route(self, names: list[str], asked: ChatAsked) -> tuple[Route | None, list[int]]:
        """What the cartridges' routers say, and the chat as the model alone reads it; None and nothing without routers."""
        if self.routers is None:
            return None, []
        loop = asyncio.get_running_loop()
        if not (routers := await loop.run_in_executor(self._loader, self.routers.of, names)):
            return None, []
        bare = await loop.run_in_executor(self._encoder, lambda: self.prompts.ids(asked, behind=False))
        route = await loop.run_in_executor(self._loader, self.routers.route, routers, bare)
        if route is not None:
            self.metrics.routed.labels("cartridge" if route.reads else "none").inc()
        return route, bare

    async def sources(self, model: str, text: str) -> list[dict[str, Any]]:
        """The recorded conversations of a request's cartridges that are nearest to ``text`` (see `Sources`).

        Raises:
            Refusal: one of them is not there.
        """
        loop, names = asyncio.get_running_loop(), self._names(model)
        return await loop.run_in_executor(self._loader, self._sources.nearest, names, text)

    def _fitting_corpora(self, corpora: Mapping[str, Sequence[int]] | None) -> dict[str, list[int]]:
        read = {sha: self.prompts.renderer.context_ids(ids) for sha, ids in (corpora or {}).items()}
        for sha, ids in [*read.items()]:
            if self.max_positions is not None and len(ids) >= self.max_positions:
                _log.warning(
                    "a corpus of %d tokens is left out: the model has %d positions",
                    len(ids),
                    self.max_positions,
                )
                del read[sha]
        return read

    def _names(self, model: str) -> list[str]:
        if model == self.name:
            return []
        names = model.split("+")
        if len(names) > _MOST_PARTS:
            raise Refusal(
                f"model: at most {_MOST_PARTS} cartridges are composed", param="model", code="invalid_value"
            )
        return names

    def _fitting(self, asked: Asked, prompt_tokens: int, cartridge_tokens: int) -> int:
        """How many tokens a reply may have."""
        used, wanted = prompt_tokens + cartridge_tokens, asked.max_new_tokens
        room = self.limits.max_kv_tokens // asked.n - prompt_tokens + 1
        if self.max_positions is not None:
            room = min(room, self.max_positions - used)
        new = min(room, self.limits.max_new_tokens) if wanted is None else wanted
        if new < 1 or new > room:
            behind = f"the cartridge's {cartridge_tokens} positions and " if cartridge_tokens else ""
            model = (
                "" if self.max_positions is None else f"the model has {self.max_positions} positions, and "
            )
            raise Refusal(
                f"{behind}a prompt of {prompt_tokens} tokens leave room for {max(0, room)} new ones"
                f"{'' if wanted is None else f', and {wanted} were asked for'}: {model}the server writes at most "
                f"{self.limits.max_kv_tokens} tokens in all replies of a request (n={asked.n})",
                param="messages" if isinstance(asked, ChatAsked) else "prompt",
                code="context_length_exceeded",
            )
        return new
