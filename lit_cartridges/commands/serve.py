"""``lit-cartridges serve``: an OpenAI API in front of a folder of cartridges."""

from __future__ import annotations

import os
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from jsonargparse.typing import SecretStr

from lit_cartridges.errors import SettingError
from lit_cartridges.optional import require_modules
from lit_cartridges.settings import (
    Check,
    ChunkTemplate,
    Count,
    DeviceName,
    DTypeName,
    Existing,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Range,
    ReadCorpus,
    checked,
)
from lit_cartridges.settings.model_checks import DeviceMap, QuantizationConfig
from lit_cartridges.terminal import printable_line


@dataclass(frozen=True)
class OriginOfPage(Check):
    """An origin as browsers send it."""

    def problem(self, value: Any) -> str | None:
        """See `Check.problem`."""
        if value == "*" or re.fullmatch(r"https?://[^/\s]+", value):
            return None
        return "must be origins of pages, such as https://example.org, or * for all"


Port = Annotated[int, Range(least=0, most=65535)]
ShelfFolder = Annotated[Path, Existing("folder")]
Origin = Annotated[str, OriginOfPage()]
KEY_VARIABLE = "LIT_CARTRIDGES_API_KEY"


@checked
def serve_command(
    folder: ShelfFolder,
    *,
    engine: Literal["local", "vllm"] | None = None,
    model: str | None = None,
    served_name: str | None = None,
    corpora: list[ReadCorpus] | None = None,
    system_template: ChunkTemplate = "{chunk}",
    enable_thinking: bool = False,
    host: str = "127.0.0.1",
    port: Port = 8000,
    api_key: SecretStr | str | None = None,
    allow_origins: list[Origin] | None = None,
    max_rows: Count | None = None,
    max_kv_tokens: PositiveInt | None = None,
    max_requests: Count = 256,
    max_new_tokens: PositiveInt = 512,
    router: Literal["auto", "off"] = "auto",
    max_cartridge_gb: PositiveFloat = 4.0,
    max_body_bytes: PositiveInt = 2**20,
    drain_s: PositiveFloat = 30.0,
    dtype: DTypeName | None = None,
    device: DeviceName = "auto",
    revision: str | None = None,
    token: SecretStr | str | None = None,
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    quantization_config: QuantizationConfig | None = None,
    vllm_python: str | None = None,
    vllm_options: list[str] | None = None,
    tensor_parallel_size: Count = 1,
    gpu_memory_utilization: PositiveShare = 0.9,
    max_model_len: PositiveInt | None = None,
    start_timeout_s: PositiveFloat = 1200.0,
) -> None:
    """Answer OpenAI's API from every cartridge of a folder, each under its own name, until Ctrl-C or SIGTERM.

    The name of FOLDER/X/cartridge and of FOLDER/X is X; "a+b" composes two; the model's own name reads none. What is added,
    replaced or removed is so at once. docs/serving.md has the routes and what is refused.

    Args:
        folder: of runs, or of cartridges.
        engine: vllm, or local: in this process, requests behind different cartridges in one batch. By default vLLM where it
            can be started; what is taken, and why, is said on standard error.
        model: the frozen model; by default the one that the cartridges name.
        served_name: the model's name in requests; by default its name, or the last part of its path.
        corpora: of cartridges in the folder, by which NAME:icl has the corpus of NAME in its context, to compare with.
        system_template: the system message of the training (data.system_template), whose end stands behind a cartridge.
        enable_thinking: as in the training (data.enable_thinking).
        host: address to listen at; by default this machine alone reaches it. 0.0.0.0 is every one.
        port: 0 takes one that is free, and prints it.
        api_key: that requests must have ("Authorization: Bearer …"); by default what LIT_CARTRIDGES_API_KEY holds, if anything.
        allow_origins: of web pages that a browser lets read the answers (CORS); none by default.
        max_rows: replies written at once; more wait. By default 32, and 256 on vLLM.
        max_kv_tokens: replies at once times the longest prompt and reply, which bounds the memory of the batch: 65,536; on vLLM,
            whose own memory bounds that, of one request, and by default not at all.
        max_requests: open at once; more are told to come again (429).
        max_new_tokens: of a chat's reply where the request does not say.
        router: auto answers chats that are not about a cartridge's corpus without it, where its folder has a router
            (`lit-cartridges router` makes one), and says so in a header; off always reads what was named. On vLLM the model is
            loaded once more for that, in this process and on the CPU.
        max_cartridge_gb: of cartridges kept in memory, in 10^9 bytes.
        max_body_bytes: of a request.
        drain_s: after SIGTERM, time for open requests to end.
        dtype: of the model: "auto" (as in its files), "float32", "bfloat16", "float16"; by default the cartridges'.
        device: "auto", "cpu", "cuda", "cuda:1", …
        revision: branch, tag or commit of the model on the Hub; by default the cartridges'.
        token: for private and gated models of the Hub, where HF_TOKEN does not hold it.
        trust_remote_code: run code that comes with the model, if it needs that.
        device_map: "auto", or a device per module, which accelerate then spreads; ``device`` is not used then.
        quantization_config: as transformers takes it: ``{load_in_4bit: true}``; by default the cartridges'.
        vllm_python: interpreter of vLLM's environment, or that environment's folder; by default what LIT_CARTRIDGES_VLLM names,
            or this one.
        vllm_options: further options of vLLM's server: ``[--enforce-eager]``.
        tensor_parallel_size: devices over which vLLM spreads every layer.
        gpu_memory_utilization: the share of each device's memory that vLLM takes.
        max_model_len: positions that vLLM has; by default as many as the model has and the memory holds.
        start_timeout_s: how long vLLM may take until it answers.
    """
    only_vllm = {
        "vllm_python": vllm_python,
        "vllm_options": vllm_options or None,
        "max_model_len": max_model_len,
        "tensor_parallel_size": tensor_parallel_size if tensor_parallel_size > 1 else None,
    }
    said = {setting: value for setting, value in only_vllm.items() if value is not None}
    if said and engine == "local":
        raise SettingError("goes with --engine vllm; leave it out", said, engine=engine)
    require_modules("starlette", "uvicorn", "prometheus_client")
    from lit_cartridges.corpora.open_corpus import open_corpus
    from lit_cartridges.models import hub_options, load_model, load_tokenizer
    from lit_cartridges.models.base_weights import plain_token, with_recorded
    from lit_cartridges.serving.app import App
    from lit_cartridges.serving.guard import LOCAL_HOSTS
    from lit_cartridges.serving.metrics import Metrics
    from lit_cartridges.serving.residents import unreadable_by
    from lit_cartridges.serving.running import ended_by_sigterm, listening, serve
    from lit_cartridges.serving.service import Limits, Service
    from lit_cartridges.serving.shelf import Shelf, require_one_base, served_as
    from lit_cartridges.serving.vllm.choosing import chosen_engine
    from lit_cartridges.serving.vllm.engine import VLLMEngine
    from lit_cartridges.serving.vllm.server import VLLMServer, require_options
    from lit_cartridges.serving.vllm.spooled_residents import SpooledResidents
    from lit_cartridges.strategies.frozen_models import FrozenModel

    require_options(vllm_options or [])

    found = Shelf(folder).all()
    read = [open_corpus(path) for path in corpora or ()]
    for corpus in read:
        if corpus.sha256 not in {one.facts.corpus_sha256 for one in found}:
            raise SettingError("no cartridge of the folder was made of it", corpora=str(corpus.path))
    if model is None:
        require_one_base(found)
    given = {
        "dtype": dtype,
        "revision": revision,
        "token": plain_token(token),
        "trust_remote_code": trust_remote_code,
        "device_map": device_map,
        "quantization_config": quantization_config,
    }
    named, settings = with_recorded([one.provenance for one in found], model, given)
    if not named:
        raise SettingError("holds no cartridge that names its model; give --model", folder=str(folder))
    name = served_name or served_as(named)
    if Shelf(folder).is_there(name):
        raise SettingError(
            f"a cartridge of the folder has the model's name {name!r}; give the model another with --served_name",
            folder=str(folder),
        )
    bound = listening(host, port)
    setting = "--model" if model else "base_model of the cartridges"
    model_files = FrozenModel(setting=setting, name=named, **settings)
    asked = engine or ("vllm" if said else None)
    choice = chosen_engine(asked, python=vllm_python, model=model_files, device=device)
    tokenizer = load_tokenizer(named, setting=setting, **hub_options(settings))
    max_cartridge_bytes = round(max_cartridge_gb * 1e9)
    with ExitStack() as ending:
        ending.enter_context(ended_by_sigterm())
        frozen: Any = choice.unloaded
        parts: dict[str, Any] = {}
        if frozen is None:
            frozen = load_model(named, device=device, setting=setting, **settings)
            where = f"in this process, on {frozen.device}"
            max_rows, max_kv_tokens = max_rows or 32, max_kv_tokens or 65_536
        else:
            max_rows = max_rows or 256
            server = VLLMServer(
                choice.python,
                model_files,
                frozen,
                max_rows=max_rows,
                max_cartridge_bytes=max_cartridge_bytes,
                tensor_parallel_size=tensor_parallel_size,
                gpu_memory_utilization=gpu_memory_utilization,
                max_model_len=max_model_len,
                options=vllm_options or [],
                start_timeout_s=start_timeout_s,
            )
            ending.callback(server.stop)
            frozen.bound(server.max_model_len)
            where = f"on vLLM {choice.version}"
            max_kv_tokens = max_kv_tokens or max_rows * server.max_model_len
            fp8 = any("fp8" in option for option in vllm_options or [])
            parts["residents"] = partial(SpooledResidents, folder=server.spool, fp8=fp8)
            parts["engine"] = partial(VLLMEngine, server=server)
        if engine is None:
            taken = "vllm" if choice.unloaded else "local"
            print(printable_line(f"engine {taken}: {choice.why}"), file=sys.stderr)
        prompts: dict[str, Any] = {"system_template": system_template, "enable_thinking": enable_thinking}
        loaded = None if choice.unloaded else frozen
        question_model = (
            partial(_question_model, loaded, named, setting, settings) if router == "auto" else None
        )
        shelf = Shelf(folder, refuses=unreadable_by(frozen, biases=choice.unloaded is None, **prompts))
        limits = Limits(
            max_rows=max_rows,
            max_kv_tokens=max_kv_tokens,
            max_requests=max_requests,
            max_new_tokens=max_new_tokens,
            max_cartridge_bytes=max_cartridge_bytes,
            max_body_bytes=max_body_bytes,
        )
        known = {corpus.sha256: corpus.token_ids(tokenizer).tolist() for corpus in read}
        service = Service(
            frozen,
            tokenizer,
            shelf,
            name=name,
            limits=limits,
            metrics=Metrics(),
            corpora=known,
            question_model=question_model,
            **prompts,
            **parts,
        )
        if service.routers is not None:
            service.routers.prepare()
        key = plain_token(api_key) or os.environ.get(KEY_VARIABLE) or None
        local = host in LOCAL_HOSTS
        if not local and key is None:
            print(
                "warning: whoever reaches this host may ask; give --api_key to be asked for one",
                file=sys.stderr,
            )
        app = App(service, api_key=key, allow_origins=allow_origins, local_host_only=local and key is None)

        def started() -> None:
            address = f"[{host}]" if ":" in host else host
            print(f"serving http://{address}:{bound.getsockname()[1]}/v1 {where}:", flush=True)
            print(printable_line(f"  {name} (no cartridge)"), flush=True)
            for one in shelf.all():
                more = f", and {one.name}:icl" if service.residents.corpus_of(one) is not None else ""
                print(printable_line(f"  {one.name} ({one.facts.num_tokens} positions{more})"), flush=True)

        serve(app, bound, drain_s=drain_s, started=started)


def _question_model(loaded: Any, name: str, setting: str, settings: dict[str, Any]) -> Any:
    """The model that routers read questions by: the one in process, or beside vLLM one on the CPU."""
    from lit_cartridges.models import load_model

    if loaded is not None:
        return loaded
    print(
        "router: the model is loaded on the CPU too, to read questions (--router off: not)", file=sys.stderr
    )
    return load_model(name, device="cpu", setting=setting, **settings)
