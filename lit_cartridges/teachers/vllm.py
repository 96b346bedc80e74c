"""A vLLM engine beside the run, as the teacher: started and stopped with it (docs/teachers.md)."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lit_cartridges.errors import SettingError
from lit_cartridges.runs.local_server import LocalServer, ServerError
from lit_cartridges.runs.once_a_machine import once_a_machine
from lit_cartridges.settings import (
    Count,
    DTypeName,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Range,
    checked,
)
from lit_cartridges.teachers.openai import OpenAITeacher
from lit_cartridges.teachers.teacher import Completion, Request, Sampling, T, Talk, Teacher, TeacherError
from lit_cartridges.teachers.vllm_engine import (
    SERVED_NAME,
    Engine,
    require_free_options,
    served_files,
    visible_devices,
    vllm_python,
)

if TYPE_CHECKING:
    from lit_cartridges.strategies.frozen_models import FrozenModel

_LEAST_TOKENS, _LEAST_LOGPROBS = 64, 20  # of a server; the check of its model needs that much


class VLLM(Teacher):
    """Starts vLLM's server for the run's own frozen model, asks it as an `OpenAITeacher`, and ends it with the run.

    The engine holds weights of its own, from the same files, beside those that are trained on. Processes on one machine
    share the one that the first of them starts. It listens on the loopback interface, with a key that is new in every run.

    Args:
        python: the interpreter of vLLM's environment, or that environment's folder; by default what the environment variable
            LIT_CARTRIDGES_VLLM names, or this one.
        gpu_memory_utilization: the share of each device's memory that the engine takes, for its weights and its cache; what is
            left is the training's, where the two share a device. 0.9 on devices of its own.
        devices: CUDA devices of the engine, numbered as the run numbers them; by default the first that the run sees.
        tensor_parallel_size: devices over which every layer is spread.
        dtype: of the engine; by default that of the run's frozen model.
        max_model_len: positions of the engine's context; by default what the longest chunk and conversation need.
        options: further options of vLLM's server: ``[--enforce-eager, --max-num-seqs=64]``.
        max_requests_in_flight: prompts that the engine has at a time.
        start_timeout_s: how long it may take until the engine answers.
        timeout_s: for one whole reply.
    """

    @checked
    def __init__(
        self,
        *,
        python: str | None = None,
        gpu_memory_utilization: PositiveShare = 0.4,
        devices: list[int] | None = None,
        tensor_parallel_size: Count = 1,
        dtype: DTypeName | None = None,
        max_model_len: PositiveInt | None = None,
        options: list[str] | None = None,
        max_requests_in_flight: Annotated[int, Range(least=1, most=10_000)] = 128,
        start_timeout_s: PositiveFloat = 1200.0,
        timeout_s: PositiveFloat = 600.0,
    ) -> None:
        require_free_options(options or [])
        if devices is not None and len(devices) != tensor_parallel_size:
            raise SettingError(
                "give as many devices as every layer is spread over",
                devices=devices,
                tensor_parallel_size=tensor_parallel_size,
            )
        self.python, self.dtype, self.options = python, dtype, options
        self.gpu_memory_utilization, self.devices = gpu_memory_utilization, devices
        self.tensor_parallel_size, self.max_model_len = tensor_parallel_size, max_model_len
        self.max_requests_in_flight = max_requests_in_flight
        self.start_timeout_s, self.timeout_s = start_timeout_s, timeout_s
        self._model: FrozenModel | None = None
        self._longest_tokens, self._top_k = _LEAST_TOKENS, 0
        self._client: OpenAITeacher | None = None
        self._server: LocalServer | None = None
        self._counts: Mapping[str, int] = {}

    def validate(self, vocab_size: int, top_k: int) -> None:
        """See `Teacher.validate`."""
        super().validate(vocab_size, top_k)
        self._top_k = max(self._top_k, top_k)

    def expect_model(self, model: FrozenModel | None, *, longest_tokens: int) -> None:
        """See `Teacher.expect_model`."""
        if model is None:
            raise TeacherError(
                "data.source.teacher=VLLM serves a model by its name, and Student.frozen_teacher names none; choose LocalTeacher "
                "for a model that is in memory alone"
            )
        served_files(model)
        if self.max_model_len is not None and self.max_model_len < longest_tokens:
            raise SettingError(
                f"is too short: the longest chunk and conversation take {longest_tokens} tokens; leave it out, or lower "
                "data.source.max_chunk_tokens",
                max_model_len=self.max_model_len,
            )
        self._model, self._longest_tokens = model, longest_tokens

    def prepare(self) -> None:
        """See `Teacher.prepare`."""
        vllm_python(self.python)
        if self.devices is not None:
            visible_devices(self.devices)

    def bind(self, model: Any, tokenizer: Any) -> None:
        """Start the engine and wait until it answers; all processes of a run come here together.

        Raises:
            TeacherError, SettingError: it does not start.
        """
        self.close()
        url, key = once_a_machine(lambda: self._start(model))
        client = OpenAITeacher(
            base_urls=url,
            model=SERVED_NAME,
            max_requests_in_flight=self.max_requests_in_flight,
            timeout_s=self.timeout_s,
        )
        client.own_key = key
        if self._server is not None:
            client.require_servers = partial(_require_alive, self._server)
        client.bind(model, tokenizer)
        self._client = client

    def _start(self, model: Any) -> tuple[str, str]:
        """Address and key."""
        assert self._model is not None, "expect_model comes first"
        config = self._model.config() if model is None else model.config
        loaded = getattr(config.get_text_config(), "dtype", None) if model is None else model.dtype
        dtype = self.dtype or self._model.dtype
        if dtype == "auto":  # which vLLM would take for a half precision, whatever the files hold
            dtype = str(loaded or "float32").removeprefix("torch.")
        engine = Engine(
            python=vllm_python(self.python),
            model=self._model,
            dtype=dtype,
            max_model_len=self.max_model_len or max(self._longest_tokens, _LEAST_TOKENS),
            max_logprobs=max(self._top_k, _LEAST_LOGPROBS),
            gpu_memory_utilization=self.gpu_memory_utilization,
            tensor_parallel_size=self.tensor_parallel_size,
            devices=self.devices,
            options=self.options or (),
            key=secrets.token_urlsafe(24),
        )
        # Its log, and the folder that it runs in, from which it would otherwise import what happens to lie there.
        folder = Path(tempfile.mkdtemp(prefix="lit_cartridges_vllm_"))
        server = LocalServer(
            "vLLM", engine.command, log=folder / "vllm.log", environment=engine.environment(), folder=folder
        )
        try:
            server.wait(path="/health", limit_s=self.start_timeout_s)
        except ServerError as error:
            raise TeacherError(
                f"data.source.teacher=VLLM: {error.headline}; short of memory, change gpu_memory_utilization="
                f"{self.gpu_memory_utilization:g} (a share of the whole device, training beside it), or set devices; short of "
                f"time, raise start_timeout_s={self.start_timeout_s:g}; options takes further ones of vLLM's",
                details=error.details,
            ) from None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._server = server
        return server.url, engine.key

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
        return self._asked()._complete(request)

    def converse(self, talks: Iterable[Talk[T]]) -> Iterator[T]:
        """See `Teacher.converse`."""
        return self._asked().converse(talks)

    def _asked(self) -> OpenAITeacher:
        if self._client is None:
            raise TeacherError("teacher=VLLM has no engine; call bind(model, tokenizer) first")
        self._client.stop_token_ids = self.stop_token_ids
        return self._client

    @property
    def counts(self) -> Mapping[str, int]:
        """See `OpenAITeacher.counts`."""
        return self._counts if self._client is None else self._client.counts

    def close(self) -> None:
        """End the engine, and drop all connections."""
        client, self._client = self._client, None
        if client is not None:
            self._counts = client.counts
            client.close()
        server, self._server = self._server, None
        if server is not None:
            died = server.process.exit_status is not None  # an error names its log
            server.stop()
            if not died:
                shutil.rmtree(server.process.log.parent, ignore_errors=True)

    def __getstate__(self) -> dict[str, Any]:
        # The engine belongs to this process.
        return {**self.__dict__, "_client": None, "_server": None}


def _require_alive(server: LocalServer) -> None:
    try:
        server.require_alive()
    except ServerError as error:
        raise TeacherError(
            f"data.source.teacher=VLLM: {error.headline}; the run can go on from its last checkpoint, with a new engine (fit "
            "--resume auto)",
            details=error.details,
        ) from None
