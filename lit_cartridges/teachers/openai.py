"""A teacher behind OpenAI-compatible servers that give token ids, such as vLLM (docs/teachers.md)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from lit_cartridges.settings import PositiveFloat, Range, checked
from lit_cartridges.teachers.served_model import ServedModelCheck
from lit_cartridges.teachers.server_dispatch import Call, ServerDispatch
from lit_cartridges.teachers.server_faults import FaultLog
from lit_cartridges.teachers.server_reply import Asked
from lit_cartridges.teachers.talks_in_flight import TalksInFlight, completed
from lit_cartridges.teachers.teacher import Completion, Request, Sampling, T, Talk, Teacher, TeacherError

Seconds = Annotated[float, Range(least=0, most=86_400)]


class OpenAITeacher(Teacher):
    """Completes over /v1/completions, with token ids as prompts, many requests at a time.

    A server prefills the shared context of a group once if its prefix cache is on (vLLM: by default). A request that
    comes to nothing, by a fault of the server, of the way there, or in the reply, is sent again: to another server at
    once, if one is up, else after an exponential back-off with jitter, or when the server's Retry-After says. Every
    fault is counted (`counts`) and logged.

    A prompt whose every attempt was answered with a faulty reply, while other prompts were answered well, comes back
    as an empty completion, counted as ``refused_prompts``: one prompt that a server cannot answer must not end a run.

    Attributes:
        own_key: a key to send in place of what the environment holds.
        require_servers: raises TeacherError where a request that failed need not be sent again, since no server is left.
    """

    @checked
    def __init__(
        self,
        *,
        base_urls: list[str] | str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        same_model: bool = True,
        max_requests_in_flight: Annotated[int, Range(least=1, most=10_000)] = 32,
        timeout_s: PositiveFloat = 120.0,
        max_retries: Annotated[int, Range(least=0, most=1_000)] = 9,
        backoff_s: Seconds = 0.5,
        server_down_s: Seconds = 10.0,
    ) -> None:
        """
        Args:
            base_urls: one or several servers with the same model, such as "http://localhost:8000/v1".
            model: the name under which they serve it.
            api_key_env: environment variable with the key; no key is sent when it is not set.
            same_model: refuse servers whose log-probabilities are not those of the run's frozen model; false for
                another model with the same tokenizer.
            max_requests_in_flight: over all servers together.
            timeout_s: for one whole reply.
            max_retries: further attempts per request after the first.
            backoff_s: wait before the first of them, doubled for each next one, at most a minute: with the default
                settings a run waits three minutes for a server to come back.
            server_down_s: how long a server that fails is left out while others are up, doubled each time running.

        Raises:
            SettingError, TeacherError: settings that cannot work.
        """
        urls = [base_urls] if isinstance(base_urls, str) else list(base_urls)
        if not urls or not all(url.startswith(("http://", "https://")) for url in urls):
            raise TeacherError(
                f"base_urls={base_urls!r} must name servers such as 'http://localhost:8000/v1'"
            )
        self.base_urls = [
            url.rstrip("/") if url.rstrip("/").endswith("/v1") else f"{url.rstrip('/')}/v1" for url in urls
        ]
        self.model, self.api_key_env, self.same_model = model, api_key_env, same_model
        self.max_requests_in_flight, self.timeout_s = max_requests_in_flight, timeout_s
        self.max_retries, self.backoff_s, self.server_down_s = max_retries, backoff_s, server_down_s
        self.own_key: str | None = None
        self.require_servers: Callable[[], None] | None = None
        self._faults = FaultLog()
        self._asked = Asked()
        self._check: ServedModelCheck | None = None
        self._running: tuple[asyncio.AbstractEventLoop, ServerDispatch] | None = None
        self._owner_pid = -1

    @property
    def counts(self) -> Mapping[str, int]:
        """Faults so far by kind, ``retries``, and ``refused_prompts``; what never happened is left out."""
        return dict(self._faults.counts)

    def bind(self, model: Any, tokenizer: Any) -> None:
        """Learn from the run's model and tokenizer what servers must agree with."""
        self.close()
        self._asked = Asked(decode=partial(tokenizer.decode, skip_special_tokens=True))
        if model is not None:
            # A model may have more rows than its tokenizer has entries.
            rows = max(len(tokenizer), model.config.get_text_config().vocab_size)
            self._asked = replace(self._asked, vocab_size=rows)
        self._check = ServedModelCheck(model if self.same_model else None, tokenizer, asked=self._asked)

    def complete(
        self,
        *,
        context_ids: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        top_k: int = 0,
        min_mass: float = 0.99,
    ) -> list[Completion]:
        """See `Teacher.complete`."""
        request = Request(
            context_ids=context_ids,
            prompts=prompts,
            sampling=sampling,
            seeds=seeds,
            top_k=top_k,
            min_mass=min_mass,
        )
        future = self._asking(request)
        try:
            return completed(future)
        except BaseException:
            future.cancel()
            raise

    def converse(self, talks: Iterable[Talk[T]]) -> Iterator[T]:
        """See `Teacher.converse`; talks begin for as long as servers may have more requests in flight."""
        return TalksInFlight(talks, ask=self._asking, most_prompts=self.max_requests_in_flight).results()

    def _asking(self, request: Request) -> Future[list[Completion]]:
        asked = replace(
            self._asked,
            max_tokens=request.sampling.max_new_tokens,
            greedy=request.sampling.temperature == 0,
            top_k=request.top_k,
            min_mass=request.min_mass,
            stop_token_ids=self.stop_token_ids,
        )
        context = [int(i) for i in request.context_ids]
        whole = [context + [int(i) for i in prompt] for prompt in request.prompts]
        loop, dispatch = self._running_loop()
        call = Call(asked, request.sampling.temperature)
        work = dispatch.complete_all(whole, [int(seed) for seed in request.seeds], call)
        return asyncio.run_coroutine_threadsafe(work, loop)

    def _key(self) -> str | None:
        return self.own_key or os.environ.get(self.api_key_env)

    def close(self) -> None:
        """Drop all connections; requests under way end with a TeacherError."""
        running, self._running = self._running, None
        if running is not None and self._owner_pid == os.getpid():
            running[0].call_soon_threadsafe(running[0].stop)

    def __getstate__(self) -> dict[str, Any]:
        # The loop and all that lives in it belong to this process.
        return {**self.__dict__, "_running": None}

    def _running_loop(self) -> tuple[asyncio.AbstractEventLoop, ServerDispatch]:
        # A forked worker inherits the loop but not the thread that runs it.
        if self._running is None or self._owner_pid != os.getpid():
            loop = asyncio.new_event_loop()
            dispatch = ServerDispatch(
                base_urls=self.base_urls,
                model=self.model,
                key=self._key,
                api_key_env=self.api_key_env,
                require_servers=self.require_servers,
                max_requests_in_flight=self.max_requests_in_flight,
                timeout_s=self.timeout_s,
                max_retries=self.max_retries,
                backoff_s=self.backoff_s,
                server_down_s=self.server_down_s,
                check=self._check,
                faults=self._faults,
            )
            run = partial(_run_and_close, loop, dispatch)
            threading.Thread(target=run, name="openai-teacher", daemon=True).start()
            self._running, self._owner_pid = (loop, dispatch), os.getpid()
        return self._running


def _run_and_close(loop: asyncio.AbstractEventLoop, dispatch: ServerDispatch) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(dispatch.client.aclose())
    loop.close()
