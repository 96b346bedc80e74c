"""One request to a server, with everything that can go wrong on the way turned into a `ServerFault`."""

from __future__ import annotations

import asyncio
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from lit_cartridges.teachers.server_faults import FaultyReply, ServerFault
from lit_cartridges.teachers.teacher import TeacherError

_RETRIED_STATUS = frozenset({408, 409, 425, 429})
# Servers drop idle connections after some seconds (vLLM: 5), and a request must not meet that moment.
_IDLE_CONNECTION_S = 2.0


def new_client(*, max_connections: int) -> httpx.AsyncClient:
    """Connections that are kept between requests; `request` watches the time."""
    limits = httpx.Limits(max_connections=max_connections, keepalive_expiry=_IDLE_CONNECTION_S)
    # A proxy that the environment names knows nothing of this machine's own ports.
    return httpx.AsyncClient(timeout=None, limits=limits, mounts={"all://127.0.0.1": None})


async def request(
    client: httpx.AsyncClient, url: str, body: dict[str, Any] | None, *, key: str | None, timeout_s: float
) -> Any:
    """POST a JSON body, or GET where there is none; returns the JSON reply.

    Raises:
        ServerFault: worth another attempt.
        TeacherError: refused by the server, which will refuse it again.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with asyncio.timeout(timeout_s):
            response = await client.request("POST" if body else "GET", url, json=body, headers=headers)
    except TimeoutError:
        raise ServerFault("time_out", f"no reply within timeout_s={timeout_s:g}", server_down=True) from None
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ServerFault("unreachable", _named(error), server_down=True) from error
    except httpx.TransportError as error:
        raise ServerFault("cut_connection", _named(error), server_down=True) from error
    status, text = response.status_code, response.text
    if status in _RETRIED_STATUS or status >= 500:
        after_s = _retry_after_s(response.headers.get("Retry-After"))
        raise ServerFault(
            f"http_{status}", f"HTTP {status}: {text[:200]}", after_s=after_s, server_down=status >= 500
        )
    if status >= 300:
        raise TeacherError(f"base_urls: {url} refuses the request with HTTP {status}: {text[:500]}")
    try:
        return response.json()
    except ValueError as error:  # cut short, or not text at all
        raise FaultyReply("no_json", f"the reply is no JSON: {text[:200]}") from error


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _retry_after_s(header: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds either seconds or a date; None when it holds neither."""
    if header is None:
        return None
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(header)
        return max((date - datetime.now(date.tzinfo)).total_seconds(), 0.0)
    except ValueError:
        return None
