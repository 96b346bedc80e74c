"""Prompts to servers and completions back: which server, what when it fails, and when to give up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_cartridges.teachers.served_model import ServedModelCheck
from lit_cartridges.teachers.server_faults import FaultLog, FaultyReply, ServerFault
from lit_cartridges.teachers.server_pool import Server, ServerPool
from lit_cartridges.teachers.server_reply import Asked, parse_completions
from lit_cartridges.teachers.server_requests import new_client, request
from lit_cartridges.teachers.teacher import Completion, TeacherError

_LONGEST_BACKOFF_S = 60.0


@dataclass(slots=True)
class Call:
    """Prompts that are asked together.

    Attributes:
        asked: what every reply must fit.
        temperature: of the sampling.
        answered: prompts that got a usable reply so far.
    """

    asked: Asked
    temperature: float
    answered: int = 0


class ServerDispatch:
    """Lives in one event loop. Its settings are those of `OpenAITeacher`; ``key`` gives the one to send now."""

    def __init__(
        self,
        *,
        base_urls: Sequence[str],
        model: str,
        key: Callable[[], str | None],
        api_key_env: str,
        require_servers: Callable[[], None] | None,
        max_requests_in_flight: int,
        timeout_s: float,
        max_retries: int,
        backoff_s: float,
        server_down_s: float,
        check: ServedModelCheck | None,
        faults: FaultLog,
    ) -> None:
        self.model, self.timeout_s = model, timeout_s
        self.key, self.api_key_env, self.require_servers = key, api_key_env, require_servers
        self.max_retries, self.backoff_s = max_retries, backoff_s
        self.check, self.faults = check, faults
        self.pool = ServerPool(base_urls, down_s=server_down_s)
        self.client = new_client(max_connections=max_requests_in_flight)
        self._gate = asyncio.Semaphore(max_requests_in_flight)

    async def complete_all(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], call: Call
    ) -> list[Completion]:
        """One completion per prompt, in their order.

        Raises:
            TeacherError: one could not be had.
        """
        tasks = [
            asyncio.ensure_future(self._with_retries(self._body(prompt, seed, call), call))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _with_retries(self, body: dict[str, Any], call: Call) -> Completion:
        faults: list[ServerFault] = []
        problems: dict[str, str] = {}
        server: Server | None = None
        async with self._gate:
            while len(faults) <= self.max_retries:
                if faults:
                    if self.require_servers is not None:
                        self.require_servers()
                    self.faults.count("retries")
                    await asyncio.sleep(self._wait_s(faults, server))
                with self.pool.borrow(avoid=server) as server:
                    try:
                        await self._checked(server)
                        completion = (await self._ask(server, body, call.asked))[0]
                    except ServerFault as fault:
                        self._note(server, fault, len(faults))
                        faults.append(fault)
                        problems[server.url] = f"{fault.kind}: {fault}"
                        continue
                if self.pool.works(server):
                    self.faults.tell("back", server.url, "it answers again")
                call.answered += 1
                return completion
        told = "; ".join(f"{url} after max_retries={self.max_retries}: {p}" for url, p in problems.items())
        if call.answered and all(isinstance(fault, FaultyReply) for fault in faults):
            self.faults.note("refused_prompts", next(iter(problems)), f"a prompt is left out, {told}")
            return Completion(np.empty(0, dtype=np.int32), None, True)
        raise TeacherError(
            f"base_urls: no teacher is left, no usable reply from {told}. Check the servers; max_retries and backoff_s "
            f"say how long a run waits for them, timeout_s={self.timeout_s:g} how long for a reply"
        )

    def _note(self, server: Server, fault: ServerFault, attempt: int) -> None:
        self.faults.note(fault.kind, server.url, str(fault))
        if fault.kind in ("unreachable", "cut_connection"):
            server.checked = False  # what comes back may be another server at the same address
        # A server that fails at once has the least in flight, and would draw all requests to itself.
        if fault.server_down:
            self.pool.leave_out(server)
        elif fault.after_s is not None or not isinstance(fault, FaultyReply):
            self.pool.pause(server, self._backoff_s(attempt) if fault.after_s is None else fault.after_s)

    def _wait_s(self, faults: Sequence[ServerFault], server: Server | None) -> float:
        if len(faults) < len(self.pool.servers) and any(s is not server for s in self.pool.up()):
            return 0.0
        if faults[-1].after_s is not None:
            return min(faults[-1].after_s, self.timeout_s)
        return self._backoff_s(len(faults) - 1)

    def _backoff_s(self, attempt: int) -> float:
        # Jitter, so that requests which failed together do not come back together. It decides no data.
        return min(self.backoff_s * 2.0 ** min(attempt, 30), _LONGEST_BACKOFF_S) * random.uniform(0.5, 1.5)

    def _body(self, prompt: list[int] | list[list[int]], seed: int, call: Call) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": call.asked.max_tokens,
            "temperature": call.temperature,
            "seed": seed,
            # Of the whole distribution. Left out, vLLM takes what the model's generation_config.json proposes.
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            # At least one, since some servers give token ids with the log-probabilities only.
            "logprobs": max(call.asked.top_k, 1),
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
            "stop_token_ids": list(call.asked.stop_token_ids),
        }

    async def _ask(
        self, server: Server, body: dict[str, Any], asked: Asked, *, prompts: int = 1
    ) -> list[Completion]:
        try:
            reply = await self._request(f"{server.url}/completions", body)
        except TeacherError as error:
            raise TeacherError(
                f"{error}; check model={self.model!r}, the key in api_key_env={self.api_key_env}, "
                f"top_k={asked.top_k} against the server's limit (vLLM: --max-logprobs), and the prompt of "
                f"{len(body['prompt'])} tokens against its context (vLLM: --max-model-len)"
            ) from None
        return parse_completions(reply, server=server.url, asked=asked, prompts=prompts)

    async def _request(self, url: str, body: dict[str, Any] | None) -> Any:
        return await request(self.client, url, body, key=self.key(), timeout_s=self.timeout_s)

    async def _checked(self, server: Server) -> None:
        """Wait until the server's model has been found to be the run's; one check serves all that wait for it."""
        if server.checked or self.check is None:
            return
        if server.check is None:
            server.check = asyncio.ensure_future(self._check_model(server, self.check))
            server.check.add_done_callback(lambda task: _forget_check(server, task))
        await asyncio.shield(server.check)

    async def _check_model(self, server: Server, check: ServedModelCheck) -> None:
        try:
            listing = await self._request(f"{server.url}/models", None)
        except TeacherError:
            listing = None  # a server that does not list its models
        check.look_up(self.model, listing, url=server.url)

        async def ask(prompts: list[list[int]], asked: Asked) -> list[Completion]:
            body = self._body(prompts, 0, Call(asked, temperature=0.0))
            return await self._ask(server, body, asked, prompts=len(prompts))

        await check.run(server.url, ask)
        server.checked = True


def _forget_check(server: Server, task: asyncio.Task[None]) -> None:
    server.check = None
    if not task.cancelled():
        task.exception()  # those that wait for it have it
