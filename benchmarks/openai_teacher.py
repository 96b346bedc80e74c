"""Conversations per second of a vLLM server as the teacher, by requests in flight, against the in-process teacher.

Every conversation is a question and an answer, greedy, about one chunk of the bundled model's corpus, as self-study asks
them; conversations about one chunk are asked together, and the server's prefix cache is on. The replies must be the
in-process teacher's, which is checked in every timing. Server and client share the machine's cores, as printed; rates are by the
wall clock, since the server works in other processes.

Needs `make install-vllm`, and starts a server by itself; or a server that runs already: --base-urls.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks import _common as common
from benchmarks._vllm_server import NAME, VllmServer
from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.corpora.chunkers import TokenChunker
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket import SEED_PROMPTS
from lit_cartridges.pocket.corpus import WorldCorpus
from lit_cartridges.self_study.synthesizer import Synthesizer
from lit_cartridges.teachers import LocalTeacher, OpenAITeacher, Sampling, Teacher

MODEL = "package:lit_cartridges.pocket/model"
GROUP = 32  # conversations about one chunk


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--base-urls", nargs="+", help="servers with the bundled model, served as 'pocket'")
    parser.add_argument(
        "--vllm-python", type=Path, default=Path(".venv-vllm/bin/python"), help="starts a server"
    )
    parser.add_argument("--in-flight", type=int, nargs="*", default=[1, 8, 32], help="requests at a time")
    parser.add_argument("--groups", type=int, help="chunks, with 32 conversations each")
    parser.add_argument("--repeats", type=int)
    args = parser.parse_args(argv)
    args.groups = args.groups or (1 if args.quick else 4)
    args.repeats = args.repeats or (1 if args.quick else 3)
    facts = common.begin(args)
    if not args.base_urls and not args.vllm_python.exists():
        print(f"openai_teacher: no server; `make install-vllm` makes --vllm-python={args.vllm_python}\n")
        return common.finish(args, {**facts, "results": []})
    with _servers(args) as urls:
        common.headline(facts)
        results = _measure(args, urls)
    common.print_table(
        f"**A vLLM server as the teacher**: the bundled model in float32, {args.groups} chunks with {GROUP} conversations "
        f"each (greedy, question and answer, 20 log-probabilities per answer token), {len(urls)} server(s) on the same "
        f"cores, prefix caching on (cached prompt: the share found there in the last round); wall clock, "
        f"median of {args.repeats}.",
        (
            "teacher",
            "requests in flight",
            "conversations/s",
            "tokens/s",
            "× local",
            "cached prompt",
            "same replies",
        ),
        [
            (
                "in process" if r["in_flight"] is None else "vLLM",
                "–" if r["in_flight"] is None else r["in_flight"],
                f"{r['conversations_per_s']:.1f}",
                f"{r['tokens_per_s']:,.0f}",
                f"{r['conversations_per_s'] / results[0]['conversations_per_s']:.2f}",
                "–" if r["cached_prompt_share"] is None else f"{r['cached_prompt_share']:.0%}",
                f"{r['same_replies']:.0%}",
            )
            for r in results
        ],
    )
    return common.finish(args, {**facts, "results": results})


@contextlib.contextmanager
def _servers(args: Any) -> Iterator[list[str]]:
    if args.base_urls:
        yield args.base_urls
        return
    with tempfile.TemporaryDirectory() as folder:
        common.progress("starting a vLLM server")
        server = VllmServer(python=args.vllm_python.absolute(), log=Path(folder) / "server.log")
        try:
            server.wait()
            yield [server.url]
        finally:
            server.stop()


def _measure(args: Any, urls: Sequence[str]) -> list[dict[str, Any]]:
    model, tokenizer = load_model(MODEL, dtype="float32"), load_tokenizer(MODEL)
    teachers: dict[int | None, Teacher] = {None: LocalTeacher()}
    for in_flight in args.in_flight:
        teachers[in_flight] = OpenAITeacher(
            base_urls=list(urls), model=NAME, max_requests_in_flight=in_flight, timeout_s=600.0
        )
    for teacher in teachers.values():
        teacher.bind(model, tokenizer)
    seconds: dict[int | None, list[float]] = {in_flight: [] for in_flight in teachers}
    results = []
    for repeat in range(
        -1, args.repeats
    ):  # the first round warms up: connections, the check of the model, kernels
        results = []
        for way, (in_flight, teacher) in enumerate(teachers.items()):
            # Chunks of its own in each timing, so that none is in the server's cache from before.
            seed = 1 + way + len(teachers) * (repeat + 1)
            before, started = _prefix_cache(urls), time.perf_counter()
            made = _conversations(teacher, tokenizer, seed, args.groups if repeat >= 0 else 1)
            seconds[in_flight] += [time.perf_counter() - started] if repeat >= 0 else []
            asked, found = (b - a for a, b in zip(before, _prefix_cache(urls), strict=True))
            expected = _conversations(teachers[None], tokenizer, seed, args.groups if repeat >= 0 else 1)
            result = _result(in_flight, made, expected, seconds[in_flight])
            results.append({**result, "cached_prompt_share": found / asked if asked else None})
            common.progress(f"{'in process' if in_flight is None else in_flight}, round {repeat + 1}")
    for teacher in teachers.values():
        teacher.close()
    return results


def _prefix_cache(urls: Sequence[str]) -> tuple[float, float]:
    """Prompt tokens that the servers have looked for in their prefix caches, and found there, so far."""
    totals = [0.0, 0.0]
    for url in urls:
        for line in httpx.get(url.removesuffix("/v1") + "/metrics", timeout=60).text.splitlines():
            for i, name in enumerate(("queries", "hits")):
                if line.startswith(f"vllm:prefix_cache_{name}_total"):
                    totals[i] += float(line.split()[-1])
    return totals[0], totals[1]


def _conversations(teacher: Teacher, tokenizer: Any, seed: int, groups: int) -> list[Conversation]:
    synthesizer = Synthesizer(
        corpus_ids=WorldCorpus(seed=seed, num_tokens=1500).token_ids(tokenizer),
        chunker=TokenChunker(min_tokens=96, max_tokens=224),
        renderer=ChatRenderer(tokenizer),
        teacher=teacher,
        seed_prompts=SEED_PROMPTS,
        seed=seed,
        conversations_per_group=GROUP,
        question=Sampling(0.0, 24),
        answer=Sampling(0.0, 32),
    )
    return [c for made in synthesizer.conversations_of(range(groups)) for c in made]


def _result(
    in_flight: int | None, made: list[Conversation], expected: list[Conversation], seconds: list[float]
) -> dict[str, Any]:
    tokens = sum(len(message.token_ids) for c in made for message in c.messages)
    took = statistics.median(seconds) if seconds else float("inf")
    same = [
        all(a.token_ids.tolist() == b.token_ids.tolist() for a, b in zip(x.messages, y.messages, strict=True))
        for x, y in zip(made, expected, strict=True)
    ]
    return {
        "in_flight": in_flight,
        "conversations": len(made),
        "seconds": list(seconds),
        "conversations_per_s": len(made) / took,
        "tokens_per_s": tokens / took,
        "same_replies": sum(same) / len(same),
    }


if __name__ == "__main__":
    main()
