"""Tokens per second of vLLM with cartridges, against ICL, at the same KV memory, measured by vLLM's own benchmark client.

One server (`lit-cartridges serve --engine vllm`) answers both sides from the same blocks of KV memory: ICL's prompts are a corpus
and a question of random tokens, a cartridge's are the question, behind a random cartridge, since speed does not depend on what
they hold. Two loads: a corpus for each request, of which vLLM's prefix cache finds nothing, and each of whose cartridges is read
from its file for its one request; and one corpus for all, which the prefix cache holds after the first request, on both sides.
Corpora and cartridges are new in every repeat. The client is what `vllm bench serve` runs; it sends all requests at once. Sides
take turns; rates are by the wall clock, mean and standard deviation.

Needs `make install-vllm`, or vLLM's interpreter by --vllm-python.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import _common as common
from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.models import load_tokenizer
from lit_cartridges.runs.local_server import LocalServer
from lit_cartridges.serving.vllm.unloaded import UnloadedModel
from lit_cartridges.strategies.frozen_models import FrozenModel
from lit_cartridges.teachers.vllm_engine import other_python, served_files

# `vllm bench serve` for each list of its arguments, in one process.
_CLIENT = """
import json, sys
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
for arguments in json.load(sys.stdin):
    main(parser.parse_args(arguments))
"""
_NAME, _SPREAD = "base", 0.3
EACH, ONE = "a corpus for each request", "one corpus for all"


@dataclass(frozen=True, kw_only=True)
class Side:
    """Requests that read ``tokens`` positions of a corpus each: as text, or as a cartridge."""

    load: str
    tokens: int
    is_icl: bool

    def cartridge(self, repeat: int, request: int) -> str:
        """The name of that which a request reads."""
        return f"p{self.tokens}-{repeat}-{request if self.load == EACH else 'all'}"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--vllm-python", type=Path, default=Path(".venv-vllm/bin/python"))
    parser.add_argument("--model", default="package:lit_cartridges.pocket/model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--corpus-tokens", type=int)
    parser.add_argument("--cartridge-tokens", type=int, nargs="*")
    parser.add_argument("--question-tokens", type=int, default=16)
    parser.add_argument("--new-tokens", type=int)
    parser.add_argument("--requests", type=int, help="of a timing, all sent at once")
    parser.add_argument("--kv-blocks", type=int, default=160, help="KV memory of both sides")
    parser.add_argument("--block-size", type=int, default=32, help="positions of a block")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--vllm-options", nargs="*", default=["--enforce-eager"])
    args = parser.parse_args(argv)
    quick = args.quick
    args.corpus_tokens = args.corpus_tokens or (100 if quick else 1500)
    args.cartridge_tokens = args.cartridge_tokens or ([20] if quick else [150, 37])
    args.new_tokens = args.new_tokens or (8 if quick else 128)
    args.requests = args.requests or (4 if quick else 24)
    args.repeats = args.repeats or (2 if quick else 5)
    facts = common.begin(args)
    if not args.vllm_python.exists():
        print(f"vllm_serving: no vLLM; `make install-vllm` makes --vllm-python={args.vllm_python}\n")
        return common.finish(args, {**facts, "results": []})
    sizes = [(args.corpus_tokens, True), *((tokens, False) for tokens in args.cartridge_tokens)]
    sides = [Side(load=load, tokens=tokens, is_icl=icl) for load in (EACH, ONE) for tokens, icl in sizes]
    model = FrozenModel(setting="--model", name=args.model, dtype=args.dtype)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common.progress("writing cartridges")
        _write_cartridges(args, model, sides, folder / "shelf")
        with _server(args, folder) as url:
            common.headline(facts)
            results = _measure(args, sides, url, folder, served_files(model)[0], _stops(model))
    common.print_table(
        f"**vLLM with cartridges**: {args.model} in {args.dtype}, {args.requests} requests at once, each a question of "
        f"{args.question_tokens} tokens behind what the first column says, and {args.new_tokens} tokens of reply; KV memory of "
        f"{args.kv_blocks * args.block_size:,} positions in blocks of {args.block_size}, prefix caching on; wall clock, mean ± "
        f"standard deviation of {args.repeats}.",
        ("", "reply tokens/s", "× ICL", "to the first token, s"),
        [_row(result, results) for result in results],
    )
    return common.finish(args, {**facts, "results": results})


def _stops(model: FrozenModel) -> list[int]:
    unloaded = UnloadedModel(model)
    renderer = ChatRenderer(load_tokenizer(model.name))
    return list(renderer.stop_token_ids(unloaded.generation_config))


def _write_cartridges(args: Any, model: FrozenModel, sides: Sequence[Side], shelf: Path) -> None:
    shape = Fingerprint.of_config(model.config())
    known = Provenance(base_model=args.model, fingerprint=shape)
    for side in sides:
        if side.is_icl:
            continue
        names = {
            side.cartridge(repeat, i) for repeat in range(-1, args.repeats) for i in range(args.requests)
        }
        for name in names:
            size = shape.num_layers, shape.num_kv_heads, side.tokens, shape.head_dim
            keys, values = (list(torch.randn(size) * _SPREAD) for _ in range(2))
            Cartridge(keys, values, provenance=known).save_pretrained(shelf / name)


@contextlib.contextmanager
def _server(args: Any, folder: Path) -> Iterator[str]:
    blocks = [f"--num-gpu-blocks-override={args.kv_blocks}", f"--block-size={args.block_size}"]
    given = [*("--model", args.model, "--dtype", args.dtype, "--served_name", _NAME, "--engine", "vllm")]
    given += [
        "--vllm_python",
        str(args.vllm_python),
        "--vllm_options",
        json.dumps([*args.vllm_options, *blocks]),
    ]
    longest = args.corpus_tokens + args.question_tokens + args.new_tokens + args.block_size
    given += ["--max_model_len", str(longest), "--max_requests", str(max(256, args.requests))]
    command = [sys.executable, "-m", "lit_cartridges.cli", "serve", str(folder / "shelf"), *given]
    own = {"OMP_NUM_THREADS": str(args.threads), "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    server = LocalServer(
        "the server",
        lambda port: [*command, "--port", str(port)],
        log=folder / "log",
        environment={name: os.environ.get(name, value) for name, value in own.items()},
        grace_s=60.0,
    )
    try:
        server.wait(path="/ready", limit_s=1200.0)
        yield server.url
    finally:
        server.stop()


def _measure(
    args: Any, sides: Sequence[Side], url: str, folder: Path, tokenizer: str, stops: Sequence[int]
) -> list[dict[str, Any]]:
    # The first round warms up.
    runs = [(repeat, at) for repeat in range(-1, args.repeats) for at in range(len(sides))]
    common_arguments = [
        *("--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions"),
        *("--model", _NAME, "--tokenizer", tokenizer, "--dataset-name", "random"),
        *("--random-output-len", str(args.new_tokens), "--num-prompts", str(args.requests)),
        *("--temperature", "0", "--disable-tqdm", "--save-result", "--result-dir", str(folder)),
        # Replies of one length: nothing ends them before it. The client's own ignore_eos is not served.
        *(
            "--extra-body",
            json.dumps({"ignore_eos": False, "logit_bias": {str(token): -100 for token in stops}}),
        ),
    ]
    asked = [[*common_arguments, *_arguments(args, sides[at], repeat, at)] for repeat, at in runs]
    common.progress(f"{len(asked)} timings by vLLM's client")
    with (folder / "client.log").open("w+") as log:
        ran = subprocess.run(
            [str(args.vllm_python.absolute()), "-c", _CLIENT],
            env=other_python(args.vllm_python) | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            input=json.dumps(asked),
            cwd=folder,
            stdout=log,
            stderr=log,
            text=True,
            check=False,
        )
        if ran.returncode:
            log.seek(0)
            raise RuntimeError(f"vLLM's client failed:\n{log.read()[-4000:]}")
    results = []
    for at, side in enumerate(sides):
        told = [json.loads((folder / f"r{repeat}-{at}.json").read_text()) for repeat in range(args.repeats)]
        wanted = args.requests, args.requests * args.new_tokens
        if any((one["completed"], one["total_output_tokens"]) != wanted for one in told):
            raise AssertionError(
                f"{side}: {[(one['completed'], one['total_output_tokens']) for one in told]}, not {wanted}"
            )
        results.append(
            {
                "load": side.load,
                "tokens": side.tokens,
                "is_icl": side.is_icl,
                "tokens_per_s": [one["output_throughput"] for one in told],
                "first_token_s": [one["mean_ttft_ms"] / 1000 for one in told],
            }
        )
    return results


def _arguments(args: Any, side: Side, repeat: int, at: int) -> list[str]:
    """Of one timing: which prompts, and whose name each request has."""
    shared = args.corpus_tokens if side.is_icl and side.load == ONE else 0
    own = args.question_tokens + (args.corpus_tokens if side.is_icl and side.load == EACH else 0)
    names = [_NAME] if side.is_icl else [side.cartridge(repeat, i) for i in range(args.requests)]
    return [
        *("--lora-assignment", "round-robin", "--lora-modules", *names),
        *("--random-prefix-len", str(shared), "--random-input-len", str(own)),
        *("--seed", str(args.seed + 1 + repeat), "--result-filename", f"r{repeat}-{at}.json"),
    ]


def _row(result: dict[str, Any], results: Sequence[dict[str, Any]]) -> tuple[str, str, str, str]:
    rate, first = (result[name] for name in ("tokens_per_s", "first_token_s"))
    (icl,) = (one["tokens_per_s"] for one in results if one["is_icl"] and one["load"] == result["load"])
    what = (
        f"ICL, {result['tokens']:,} tokens"
        if result["is_icl"]
        else f"cartridge, {result['tokens']} positions"
    )
    return (
        f"{result['load']}: {what}",
        _mean(rate, 0),
        "1" if result["is_icl"] else f"{statistics.mean(rate) / statistics.mean(icl):.1f}",
        _mean(first, 2),
    )


def _mean(values: Sequence[float], digits: int) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):,.{digits}f} ± {spread:,.{digits}f}"


if __name__ == "__main__":
    main()
