"""Who may ask: the API key, the host that a request names, and how many connections there are."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lit_cartridges.serving.metrics import Metrics
from lit_cartridges.serving.page import PATHS
from lit_cartridges.serving.refusals import Refusal

_OPEN = ("/health", "/ready")
_WITHOUT_KEY = PATHS  # the page, which asks for the key
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class Crowd:
    """ASGI middleware around all others, health too: beyond ``most`` connections nobody is answered, as with uvicorn's
    ``limit_concurrency``, but in OpenAI's form.

    Attributes:
        connections: that are open.
    """

    def __init__(self, app: ASGIApp, *, most: int, metrics: Metrics) -> None:
        self.app, self.most, self.metrics = app, most, metrics
        self.connections: Callable[[], int] = lambda: 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or (here := self.connections()) <= self.most:
            await self.app(scope, receive, send)
            return
        told = (
            f"{here} connections are open, more than this server answers on; close some, or ask again later"
        )
        refusal = Refusal(told, status=503, code="too_many_connections")
        await _refuse(refusal, self.metrics, {"Retry-After": "1", "Connection": "close"})(
            scope, receive, send
        )


class Guard:
    """ASGI middleware (see `App`); health and readiness are told to anybody, and the page needs no key."""

    def __init__(self, app: ASGIApp, *, api_key: str | None, local_host_only: bool, metrics: Metrics) -> None:
        self.app, self.local_host_only, self.metrics = app, local_host_only, metrics
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            refusal = self._refusal(Request(scope))
            if refusal is not None:
                headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
                await _refuse(refusal, self.metrics, headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, request: Request) -> Refusal | None:
        if self.local_host_only and not _is_local(request.headers.get("host", "")):
            return Refusal(
                "this server answers on its own machine alone: ask http://127.0.0.1, or start it with --host or --api_key",
                status=403,
                code="foreign_host",
            )
        if self._key is not None and request.url.path not in _WITHOUT_KEY:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            # In a time that does not tell how much of it is right.
            same = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._key)
            if scheme.lower() != "bearer" or not same:
                return Refusal(
                    "the API key is missing or wrong; send the header 'Authorization: Bearer KEY'",
                    status=401,
                    code="invalid_api_key",
                )
        return None


def _refuse(refusal: Refusal, metrics: Metrics, headers: Mapping[str, str] | None) -> JSONResponse:
    metrics.refusals.labels(refusal.code).inc()
    return JSONResponse(refusal.body, refusal.status, headers=headers)


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.strip("[]").lower() in LOCAL_HOSTS
