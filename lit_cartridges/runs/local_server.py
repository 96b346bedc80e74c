"""A server program on this machine, for this run alone: started on a free port, waited for, and ended with the run."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

from lit_cartridges.errors import DetailedError
from lit_cartridges.runs.child_process import ChildProcess
from lit_cartridges.runs.steady_bar import SteadyBar

HOST = "127.0.0.1"
_LOOK_S, _ANSWER_S, _PORTS = 0.25, 10.0, 3
_TAKEN = ("address already in use", "errno 98")


class ServerError(DetailedError, RuntimeError):
    """A server did not start, or has ended."""


class LocalServer:
    """Reachable from this machine only.

    Args:
        name: for the bar and for errors.
        command: the program and its arguments, for a port.
        log: file for all that it says.
        environment, folder, grace_s: of `ChildProcess`.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        *,
        log: Path,
        environment: Mapping[str, str | None] | None = None,
        folder: Path | None = None,
        grace_s: float = 20.0,
    ) -> None:
        self.name, self._command = name, command
        self._options = {"log": log, "environment": environment, "folder": folder, "grace_s": grace_s}
        self._start()

    def _start(self) -> None:
        self.port = free_port()
        self.process = ChildProcess(self._command(self.port), **self._options)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://{HOST}:{self.port}"

    def wait(self, *, path: str, limit_s: float, progress: bool = True) -> None:
        """Until ``path`` answers with success. A port that somebody took in the meantime is exchanged for another.

        Raises:
            ServerError: it has ended, or does not answer in time; with the errors in its log. It is stopped then.
        """
        began, ports = monotonic(), 1
        try:
            with SteadyBar(
                desc=f"starting {self.name}",
                bar_format="{desc}: {elapsed}{postfix}",
                disable=not progress,
                leave=False,
            ) as bar:
                while not self._answers(path):
                    if (status := self.process.exit_status) is not None:
                        taken = any(words in self.process.tail(100).lower() for words in _TAKEN)
                        if not taken or ports == _PORTS:
                            raise self._failed(f"ended with exit status {status} before it answered")
                        ports += 1
                        self._start()
                    if monotonic() - began > limit_s:
                        raise self._failed(f"did not answer within {limit_s:g} s")
                    bar.touch()
                    sleep(_LOOK_S)
        except BaseException:
            self.stop()
            raise

    def _answers(self, path: str) -> bool:
        with suppress(urllib.error.URLError, OSError):
            with _DIRECT.open(f"{self.url}{path}", timeout=_ANSWER_S) as reply:
                return bool(reply.status == 200)
        return False

    def require_alive(self) -> None:
        """Raise ServerError, with the errors in its log, when it has ended."""
        if (status := self.process.exit_status) is not None:
            raise self._failed(f"has ended with exit status {status}")

    def _failed(self, what: str) -> ServerError:
        return ServerError(
            f"{self.name} {what}; its log is {self.process.log}", details=self.process.last_words()
        )

    def stop(self) -> None:
        """End it with all that it started."""
        self.process.stop()


# A proxy that the environment names knows nothing of this machine's own ports.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
