"""The routes, as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lit_cartridges.files.content import parse_json
from lit_cartridges.serving.answers import DONE, Answers, Choice, event
from lit_cartridges.serving.asked import Asked, ChatAsked, chat_asked, completion_asked
from lit_cartridges.serving.fields import Fields
from lit_cartridges.serving.guard import Guard
from lit_cartridges.serving.job import Token
from lit_cartridges.serving.listing import listed
from lit_cartridges.serving.page import page_routes
from lit_cartridges.serving.refusals import Refusal
from lit_cartridges.serving.replies import Replies
from lit_cartridges.serving.routing import HEADER, header
from lit_cartridges.serving.service import Service

T = TypeVar("T")
_BODY_S, _SEND_S = 30.0, 60.0  # patience with a client that sends, or reads, slowly
_GONE = 499  # what proxies write down for a client that has left; nobody reads it


class App:
    """The application, `asgi`.

    Args:
        api_key: that requests must have; None asks for none.
        allow_origins: of pages that a browser lets read the answers; none by default.
        local_host_only: requests must name this machine as their host, so that no page reaches it under a name of its own.
    """

    def __init__(
        self,
        service: Service,
        *,
        api_key: str | None = None,
        allow_origins: list[str] | None = None,
        local_host_only: bool = False,
    ) -> None:
        self.service = service
        self.ready = True
        cors = Middleware(
            CORSMiddleware,
            allow_origins=allow_origins or [],
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[HEADER],
        )
        guard = Middleware(Guard, api_key=api_key, local_host_only=local_host_only, metrics=service.metrics)
        self.asgi = Starlette(
            routes=[
                *page_routes(),
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/metrics", self._metrics),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._completion, methods=["POST"]),
                Route("/v1/cartridges/sources", self._sources, methods=["POST"]),
            ],
            middleware=[*([cors] if allow_origins else []), guard],
            exception_handlers={
                Refusal: self._refused,
                HTTPException: self._no_route,
                ClientDisconnect: lambda request, error: Response(status_code=_GONE),
                Exception: self._failed,
            },
        )

    async def _health(self, request: Request) -> Response:
        alive = self.service.engine.alive
        return JSONResponse({"status": "alive" if alive else "the engine has ended"}, 200 if alive else 503)

    async def _ready(self, request: Request) -> Response:
        ready = self.ready and self.service.engine.alive
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.service.metrics.text, media_type="text/plain; version=0.0.4")

    async def _models(self, request: Request) -> Response:
        models = await asyncio.to_thread(listed, self.service)
        return self._answered(request, JSONResponse({"object": "list", "data": models}))

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        for model in await asyncio.to_thread(listed, self.service):
            if model["id"] == name:
                return self._answered(request, JSONResponse(model))
        raise await asyncio.to_thread(self.service.shelf.unknown, name)

    async def _chat(self, request: Request) -> Response:
        return await self._replied(request, chat_asked(await self._body(request), **self._bounds))

    async def _completion(self, request: Request) -> Response:
        return await self._replied(request, completion_asked(await self._body(request), **self._bounds))

    @property
    def _bounds(self) -> dict[str, int]:
        return {"max_rows": self.service.limits.max_rows, "vocabulary": self.service.vocabulary}

    async def _sources(self, request: Request) -> Response:
        fields = Fields(await self._body(request))
        model, text = (fields.text(name) for name in ("model", "text"))
        fields.refuse_the_rest()
        data = await self.service.sources(model, text)
        return self._answered(request, JSONResponse({"object": "list", "data": data}))

    async def _body(self, request: Request) -> Any:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" or request.headers.get("content-encoding", "identity") != "identity":
            # A page of somebody else's can have a browser send anything but this.
            raise Refusal(
                "send JSON, with the header 'Content-Type: application/json' and no Content-Encoding",
                status=415,
                code="unsupported_media_type",
            )
        most, data = self.service.limits.max_body_bytes, bytearray()
        try:
            async with asyncio.timeout(_BODY_S):
                async for part in request.stream():
                    data += part
                    if len(data) > most:
                        raise Refusal(
                            f"the body has more than {most} bytes", status=413, code="body_too_large"
                        )
        except TimeoutError:
            raise Refusal(
                f"the body did not come within {_BODY_S:g} s", status=408, code="body_too_slow"
            ) from None
        try:
            return parse_json(bytes(data))
        except ValueError as error:
            raise Refusal(f"the body is no JSON: {error}", code="invalid_json") from None

    async def _replied(self, request: Request, asked: Asked) -> Response:
        replies = await self.service.open(asked)
        answers = Answers(
            asked.model,
            chat=isinstance(asked, ChatAsked),
            logprobs=asked.logprobs is not None,
            token_text=self.service.prompts.token_text,
        )
        told = {} if replies.route is None else {HEADER: header(replies.route)}
        if asked.stream:
            return self._answered(request, EventStream(replies, answers, headers=told))
        try:
            response = await unless_gone(request.receive, _whole(replies, answers))
            response.headers.update(told)
            return self._answered(request, response)
        finally:
            replies.close()

    def _answered(self, request: Request, response: Response) -> Response:
        route = getattr(request.scope.get("route"), "path", "other")
        self.service.metrics.answers.labels(route, str(response.status_code)).inc()
        return response

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        self.service.metrics.refusals.labels(error.code).inc()
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return self._answered(request, JSONResponse(error.body, error.status, headers=headers))

    async def _no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        refusal = Refusal(
            f"{request.method} {request.url.path[:100]} is not served; there are GET /v1/models, POST /v1/chat/completions and "
            "POST /v1/completions",
            status=error.status_code,
            code="unknown_route",
        )
        return await self._refused(request, refusal)

    async def _failed(self, request: Request, error: Exception) -> Response:
        return await self._refused(
            request, Refusal(f"the server failed: {type(error).__name__}", status=500, code="fault")
        )


class EventStream(Response):
    """Replies as server-sent events. A client that leaves, or does not read, ends them."""

    media_type = "text/event-stream"

    def __init__(self, replies: Replies, answers: Answers, *, headers: dict[str, str]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", **headers})
        del self.headers["content-length"]
        self.replies, self.answers = replies, answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            await unless_gone(receive, self._send(send))
        except (ClientDisconnect, TimeoutError):
            pass
        finally:
            self.replies.close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

        async def out(data: bytes, *, more: bool = True) -> None:
            async with asyncio.timeout(_SEND_S):
                await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            if self.answers.chat:
                for choice in self.replies.choices:
                    await out(self.answers.opening(choice.index))
            held: dict[int, list[Token]] = {choice.index: [] for choice in self.replies.choices}
            async for choice, text, token in self.replies.tokens():
                held[choice.index].append(token)
                if text or choice.finish:
                    await out(self.answers.piece(choice, text, held[choice.index]))
                    held[choice.index] = []
        except Refusal as refusal:  # the status has been sent
            self.replies.service.metrics.refusals.labels(refusal.code).inc()
            await out(event(refusal.body), more=False)
            return
        if self.replies.asked.include_usage:
            await out(self.answers.usage(self.replies.usage))
        await out(DONE, more=False)


async def _whole(replies: Replies, answers: Answers) -> Response:
    async for _ in replies.tokens():
        pass
    choices: list[Choice] = replies.choices
    return JSONResponse(answers.whole(choices, replies.usage))


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives, unless the client leaves first.

    Raises:
        ClientDisconnect: it has.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Callable[[], Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
