"""From tokens to text: the replies to one request, while they come."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from lit_cartridges.routing.router import Route
from lit_cartridges.serving.answers import Choice, Usage
from lit_cartridges.serving.asked import Asked
from lit_cartridges.serving.job import EngineError, Job, Token
from lit_cartridges.serving.refusals import Refusal
from lit_cartridges.serving.residents import Resident

if TYPE_CHECKING:
    from lit_cartridges.serving.service import Service


class Replies:
    """What a request is answered; to be closed, whoever has gone."""

    def __init__(
        self,
        service: Service,
        asked: Asked,
        ids: list[int],
        resident: Resident | None,
        new: int,
        begun: float,
        route: Route | None = None,
    ) -> None:
        self.service, self.asked, self.route = service, asked, route
        self.choices = [Choice(index=index) for index in range(asked.n)]
        self._texts = [service.prompts.reply(asked) for _ in self.choices]
        self._prompt_tokens = len(ids)
        self._cartridge_tokens = 0 if resident is None else resident.num_tokens
        self._begun, self._first = begun, 0.0
        self._came: asyncio.Queue[list[Token] | EngineError] = asyncio.Queue()
        self._closed = False
        loop, came = asyncio.get_running_loop(), self._came

        def tell(what: list[Token] | EngineError) -> None:
            loop.call_soon_threadsafe(came.put_nowait, what)

        self.job = Job(
            prompt=ids,
            resident=resident,
            n=asked.n,
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=secrets.randbits(63) if asked.seed is None else asked.seed,
            max_new_tokens=new,
            logprobs=asked.logprobs,
            changes=asked.changes,
            at_once=asked.stream or bool(asked.stops),
            tell=tell,
            ended=lambda: None if resident is None else service.residents.give_back(resident),
        )

    @property
    def usage(self) -> Usage:
        """Of all replies so far."""
        return Usage(
            prompt=self._prompt_tokens + self._cartridge_tokens,
            cartridge=self._cartridge_tokens,
            completion=sum(len(choice.tokens) for choice in self.choices),
        )

    def close(self) -> None:
        """The rows that are left leave the batch."""
        if not self._closed:
            self._closed = True
            self.service.engine.cancel(self.job)
            self.service.open_requests -= 1
            self._measure()

    async def tokens(self) -> AsyncIterator[tuple[Choice, str, Token]]:
        """After every token its choice, and what text can be given out now; `Choice.text` is what was before.

        Raises:
            Refusal: the engine could not finish.
        """
        while any(choice.finish is None for choice in self.choices):
            what = await self._came.get()
            if isinstance(what, EngineError):
                raise Refusal(str(what), status=503 if "stopping" in str(what) else 500, code="engine_error")
            self._first = self._first or time.perf_counter()
            for token in what:
                choice, text = self.choices[token.index], self._texts[token.index]
                if choice.finish is not None:
                    continue  # a stop text ended it, which the engine does not know
                choice.tokens.append(token)
                self.service.metrics.tokens.inc()
                piece = text.add(token.token_id)
                if text.stopped or token.end:
                    choice.finish = "stop" if text.stopped else token.end
                    rest = text.end()
                    if rest is None and self.asked.stream:
                        raise Refusal(
                            "the reply holds a thought after its beginning, which has been sent; ask without stream",
                            status=500,
                            code="reply_changed",
                        )
                    piece += rest or ""
                    if not self.asked.stream:
                        choice.text, piece = text.final, ""
                yield choice, piece, token
                choice.text += piece

    def _measure(self) -> None:
        now, metrics = time.perf_counter(), self.service.metrics
        if self._first:
            metrics.first_token.observe(self._first - self._begun)
            metrics.rate.observe(self.usage.completion / max(1e-9, now - self._begun))
