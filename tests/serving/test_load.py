"""Many clients for a minute: no wrong answer, no error, and memory that does not grow; while others leave and send nonsense."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import openai
import pytest

from lit_cartridges.cartridge import Cartridge
from tests.serving.server import Server, serving
from tests.serving.shelves import fill, of_text, pocket, task

CLIENTS, SECONDS, NEW = 32, 60.0, 24
MODELS = {"a": [1], "b": [2], "c": [3], "a+b": [1, 2], "b+c": [2, 3]}


def expected() -> dict[tuple[str, str], str]:
    frozen, tokenizer = pocket()
    answers = {}
    for model, seeds in MODELS.items():
        attached = Cartridge.compose([of_text(seed) for seed in seeds]).attach(frozen, tokenizer)
        for question in task(seeds[0]).questions()[:8]:
            answers[model, question.prompt] = attached.chat(question.prompt, max_new_tokens=NEW)
    return answers


def resident_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024


async def ask(
    client: openai.AsyncOpenAI, known: dict, rng: random.Random, until: float
) -> list[tuple[bool, float]]:
    """Whether each answer was right, and its seconds."""
    told = []
    while time.monotonic() < until:
        (model, question), answer = rng.choice(list(known.items()))
        begun, stream = time.monotonic(), rng.random() < 0.5
        reply = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=NEW,
            stream=stream,
        )
        if stream:
            text = "".join([event.choices[0].delta.content or "" async for event in reply])
        else:
            text = reply.choices[0].message.content
        told.append((text == answer, time.monotonic() - begun))
    return told


async def harm(server: Server, rng: random.Random, until: float) -> int:
    """Leave in the middle, or send what is no request."""
    host, port = server.url.removeprefix("http://").split(":")
    count = 0
    while time.monotonic() < until:
        _, writer = await asyncio.open_connection(host, int(port))
        body = b'{"model": "a", "messages": [{"role": "user", "content": "who ?"}], "n": 4, "max_tokens": 2000, "stream": true}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        data = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        cut = rng.choice([len(data), len(data), rng.randrange(len(data))])
        writer.write(data[:cut] if rng.random() < 0.8 else rng.randbytes(200))
        await writer.drain()
        await asyncio.sleep(rng.random())
        writer.close()
        count += 1
    return count


@pytest.mark.thorough
def test_many_clients_for_a_minute(tmp_path, capsys):
    known = expected()
    with serving(fill(tmp_path / "runs", a=1, b=2, c=3)) as server:

        async def all_of_them():
            client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60)
            warm = time.monotonic() + 8
            await asyncio.gather(*(ask(client, known, random.Random(i), warm) for i in range(CLIENTS)))
            before, until = resident_bytes(server), time.monotonic() + SECONDS
            told = await asyncio.gather(
                *(ask(client, known, random.Random(i), until) for i in range(CLIENTS)),
                harm(server, random.Random(1), until),
            )
            return before, told

        before, (*told, harmed) = asyncio.run(all_of_them())
        after = resident_bytes(server)
        answers = [one for each in told for one in each]
        assert all(right for right, _ in answers) and len(answers) > 10 * CLIENTS and harmed > 10
        assert after - before < 100 * 2**20, (before, after)
        until = time.monotonic() + 20
        while (
            "lit_cartridges_open_requests 0.0" not in server.ask("/metrics")[1] and time.monotonic() < until
        ):
            time.sleep(0.05)
        lines = server.ask("/metrics")[1].splitlines()
        assert "lit_cartridges_open_requests 0.0" in lines and "lit_cartridges_rows 0.0" in lines
        seconds = sorted(one for _, one in answers)
        with capsys.disabled():
            median, longest = seconds[len(seconds) // 2], seconds[-1]
            mib = [x / 2**20 for x in (before, after)]
            print(
                f"\n{CLIENTS} clients for {SECONDS:g} s: {len(answers)} answers, all right, median {median:.2f} s, longest"
            )
            print(f"{longest:.2f} s; {harmed} left or sent nonsense; memory {mib[0]:.0f} to {mib[1]:.0f} MiB")
