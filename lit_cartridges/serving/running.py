"""The server's life: a socket, the engine's thread, and an end by Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from lit_cartridges.errors import SettingError
from lit_cartridges.serving.app import App
from lit_cartridges.serving.guard import Crowd

_JOIN_S = 10.0
_MORE_CONNECTIONS = 256  # than open requests: those that ask for health, or keep a connection


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound; port 0 takes one that is free.

    Raises:
        SettingError: the address cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingError(
            f"cannot be listened at: {error.strerror or error}", host=host, port=port
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise SettingError(
            f"cannot be listened at: {error.strerror or error}", host=host, port=port
        ) from error
    return bound


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """A body that SIGTERM ends as an exception does, so that it takes along what it has started: while it loads."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def serve(app: App, bound: socket.socket, *, drain_s: float, started: Callable[[], None]) -> None:
    """Answer until a signal comes: SIGTERM lets open requests end, within ``drain_s``; Ctrl-C ends them.

    Raises:
        KeyboardInterrupt: Ctrl-C, once all has ended.
    """
    crowd = Crowd(
        app.asgi, most=app.service.limits.max_requests + _MORE_CONNECTIONS, metrics=app.service.metrics
    )
    config = uvicorn.Config(
        crowd,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )
    server = _Server(config, app, started)
    crowd.connections = lambda: len(server.server_state.connections)
    app.service.engine.start()
    try:
        asyncio.run(server.serve(sockets=[bound]))
    finally:
        app.service.engine.stop()
        app.service.engine.join(_JOIN_S)
    if server.interrupted:
        raise KeyboardInterrupt


class _Server(uvicorn.Server):
    """With signals of our own: uvicorn would raise them again before the engine has ended."""

    def __init__(self, config: uvicorn.Config, app: App, started: Callable[[], None]) -> None:
        super().__init__(config)
        self.app, self.told = app, started
        self.interrupted = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """And say so."""
        await super().startup(sockets=sockets)
        if not self.should_exit:
            self.told()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Between them."""
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: no new requests. Ctrl-C: nor any open one."""
        self.app.ready = False
        self.force_exit = self.interrupted and sig == signal.SIGINT
        self.should_exit = True
        if sig == signal.SIGINT:
            self.interrupted = True
            self.app.service.engine.stop()
