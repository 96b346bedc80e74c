"""The engine that hands jobs to vLLM's server: token ids there, token ids back, one stream a job."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Event, Thread
from typing import Any, Protocol

import httpx

from lit_cartridges.generation import pad_token_id
from lit_cartridges.serving.choice import Chosen
from lit_cartridges.serving.job import EngineError, Job, Token, row_seed
from lit_cartridges.serving.vllm.spooled_residents import SpooledResident
from lit_cartridges.serving.vllm.wanted import params
from lit_cartridges.teachers.server_requests import new_client
from lit_cartridges.teachers.vllm_engine import SERVED_NAME

_log = logging.getLogger(__name__)
_ENDED = "vLLM's server has ended; start this one again"
_LEAST_SHARE = 1e-6  # vLLM takes no top_p of 0
_INTERVAL = 32  # tokens of a piece, where nobody reads it before the end; each costs this process some work
_NO_TEMPERATURE = 1e-5  # below, vLLM is greedy
_PREFIX = "token_id:"
_CONNECTIONS = 100_000  # the server bounds its requests itself


class Behind(Protocol):
    """The server that is asked."""

    url: str
    key: str

    @property
    def alive(self) -> bool:
        """Whether it runs."""


class VLLMEngine:
    """One thread with an event loop; see `lit_cartridges.serving.job.Engine`.

    Args:
        max_rows, max_kv_tokens: what `LocalEngine` takes; vLLM's server keeps its own limits, the first of them among these.
        server: that is asked.
    """

    def __init__(
        self,
        model: Any,
        *,
        stop_token_ids: Sequence[int],
        max_rows: int,
        max_kv_tokens: int,
        server: Behind,
    ) -> None:
        self.stop_token_ids, self.server = tuple(stop_token_ids), server
        self._stopping: EngineError | None = None
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._begun: set[Job] = set()
        self._ready, self._end = Event(), asyncio.Event()
        self._thread = Thread(target=lambda: asyncio.run(self._run()), name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()
        self._ready.wait()

    def stop(self, why: str = "the server is stopping") -> None:
        """End all jobs with an error, and the thread."""
        self._stopping = self._stopping or EngineError(why)
        self._call(self._end.set)

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether jobs are worked on."""
        return self._thread.is_alive() and self._stopping is None and self.server.alive

    @property
    def rows(self) -> int:
        """Of the jobs that have begun."""
        return sum(job.left for job in list(self._begun))

    @property
    def waiting(self) -> int:
        """Jobs of which nothing is written yet."""
        return len(self._tasks) - len(self._begun)

    def submit(self, job: Job) -> None:
        """Hand the job over.

        Raises:
            EngineError: the engine, or vLLM's server, has ended.
        """
        if not self.alive or not self._call(self._submit, job):
            raise self._stopping or EngineError(_ENDED)

    def cancel(self, job: Job) -> None:
        """Let the job go; nothing happens where it has ended."""
        self._call(self._cancel, job)

    def _call(self, what: Any, *given: Any) -> bool:
        try:
            self._loop.call_soon_threadsafe(what, *given)
        except (AttributeError, RuntimeError):  # it has not begun, or has ended
            return False
        return True

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with new_client(max_connections=_CONNECTIONS) as self._client:
            self._ready.set()
            await self._end.wait()
            for task in list(self._tasks.values()):
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _submit(self, job: Job) -> None:
        job.left = job.n
        self._tasks[job] = task = asyncio.ensure_future(self._work(job))
        task.add_done_callback(lambda task: self._over(job, task))  # also where it is let go before it begins
        if self._stopping is not None:
            task.cancel()

    def _cancel(self, job: Job) -> None:
        if job in self._tasks:
            self._tasks[job].cancel()

    def _over(self, job: Job, task: asyncio.Task[None]) -> None:
        del self._tasks[job]
        self._begun.discard(job)
        if task.cancelled() and self._stopping is not None:
            _tell(job, self._stopping)
        job.ended()

    async def _work(self, job: Job) -> None:
        try:
            await self._ask(job)
            if job.left:
                raise EngineError("vLLM ended the reply before its end")
        except EngineError as error:
            _log.warning("%s", error)
            _tell(job, error)
        except (httpx.HTTPError, OSError) as error:
            _tell(job, self._stopping or EngineError(_ENDED if not self.server.alive else _named(error)))
        except Exception as error:
            _log.exception("a job failed")
            _tell(job, EngineError(_named(error)))

    async def _ask(self, job: Job) -> None:
        headers = {"Authorization": f"Bearer {self.server.key}"}
        url = f"{self.server.url}/v1/completions"
        async with self._client.stream("POST", url, json=self.body(job), headers=headers) as answer:
            if answer.status_code != 200:
                raise EngineError(
                    f"vLLM refuses: {_message((await answer.aread()).decode(errors='replace'))}"
                )
            async for line in answer.aiter_lines():
                said = line.removeprefix("data: ")
                if said == line or said == "[DONE]":
                    continue
                if isinstance(job.resident, SpooledResident) and job.resident.lost:
                    raise EngineError("a worker of vLLM's cannot read the cartridge; ask again")
                tokens = tokens_of(said, most=job.logprobs)
                if _greedy(job):
                    tokens = [replace(token, index=index) for token in tokens for index in range(job.n)]
                if tokens:
                    job.left -= sum(token.end is not None for token in tokens)
                    self._begun.add(job)
                    _tell(job, tokens)

    def body(self, job: Job) -> dict[str, Any]:
        """What vLLM is asked: the prompt as ids, behind placeholders where a cartridge is read."""
        resident, prompt, own = job.resident, job.prompt, {}
        if isinstance(resident, SpooledResident):
            if resident.name is None:
                prompt = [*resident.ids, *prompt]
            else:
                # What fills a batch is as good a placeholder as any.
                prompt = [pad_token_id(self.stop_token_ids)] * resident.num_tokens + prompt
                own = {
                    "cache_salt": resident.name,
                    "kv_transfer_params": params(resident.name, resident.num_tokens),
                }
        return own | {
            "model": SERVED_NAME,
            "prompt": prompt,
            "n": 1 if _greedy(job) else job.n,
            "temperature": 0 if _greedy(job) else job.temperature,
            "top_p": max(job.top_p, _LEAST_SHARE),
            "presence_penalty": job.changes.presence,
            "frequency_penalty": job.changes.frequency,
            "logit_bias": {str(token): value for token, value in job.changes.added.items()} or None,
            "seed": row_seed(job.seed, 0) >> 2,  # of the first row; vLLM counts on from it
            "max_tokens": job.max_new_tokens,
            "ignore_eos": True,  # these end a reply, and no others
            "stop_token_ids": list(self.stop_token_ids),
            "logprobs": job.logprobs,
            "stream": True,
            "stream_interval": 1 if job.at_once else _INTERVAL,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
        }


def tokens_of(event: str, *, most: int | None) -> list[Token]:
    """Of one event of vLLM's stream.

    Args:
        most: of the likeliest tokens beside each; vLLM adds the chosen one.

    Raises:
        EngineError: it is an error, or the end of a reply by something other than a stop token or its length.
    """
    given = json.loads(event)
    if "error" in given:
        raise EngineError(f"vLLM failed: {_message(event)}")
    found: list[Token] = []
    for choice in given["choices"]:
        ids, finish = choice.get("token_ids") or [], choice.get("finish_reason")
        if finish not in (None, "stop", "length") or (finish and not ids):
            raise EngineError(f"vLLM ended the reply with {finish!r}")
        noted = _noted(choice.get("logprobs"), len(ids), most)
        for at, token_id in enumerate(ids):
            end = finish if at == len(ids) - 1 else None
            found.append(Token(choice["index"], token_id, end, noted[at]))
    return found


def _noted(given: Mapping[str, Any] | None, count: int, most: int | None) -> Sequence[Chosen | None]:
    if given is None:
        return [None] * count
    noted = []
    for own, top in zip(given["token_logprobs"], given["top_logprobs"], strict=True):
        if own is None:
            raise EngineError("the model's scores behind this cartridge and prompt are no numbers")
        pairs = ((int(token.removeprefix(_PREFIX)), value) for token, value in (top or {}).items())
        noted.append(Chosen(own, tuple(sorted(pairs, key=lambda pair: -pair[1])[:most])))
    return noted


def _greedy(job: Job) -> bool:
    """All rows of it are the same, and vLLM writes one."""
    return job.temperature < _NO_TEMPERATURE


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])[:300]
    except (ValueError, LookupError, TypeError):
        return text[:300]


def _named(error: Exception) -> str:
    return f"the engine failed: {type(error).__name__}"


def _tell(job: Job, what: list[Token] | EngineError) -> None:
    try:
        job.tell(what)
    except RuntimeError:  # its event loop is closed, and nobody listens
        pass
