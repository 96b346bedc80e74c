"""OpenAITeacher against real vLLM servers on the CPU, with the bundled model: the replies are the local teacher's."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import openai_teacher
from benchmarks._vllm_server import NAME
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket.corpus import WorldCorpus
from lit_cartridges.teachers import LocalTeacher, OpenAITeacher, Sampling, TeacherError

pytestmark = pytest.mark.vllm
ROOT = Path(__file__).parents[2]
MODEL = "package:lit_cartridges.pocket/model"
TOLERANCE_NATS = 1e-3
CHUNKS, QUESTIONS = 4, 8
KILL_AFTER = 40  # answers of the server that is killed in mid-run


@pytest.fixture(scope="module")
def pocket():
    model, tokenizer = load_model(MODEL, dtype="float32"), load_tokenizer(MODEL)
    return model, ChatRenderer(tokenizer), WorldCorpus(seed=7, num_tokens=1500).token_ids(tokenizer)


@pytest.fixture
def teach(pocket):
    made = []

    def make(*servers, bound=None, **settings):
        frozen, renderer, _ = pocket
        defaults = {"model": NAME, "timeout_s": 300.0, "max_retries": 3}
        teacher = (
            OpenAITeacher(base_urls=[s.url for s in servers], **(defaults | settings))
            if servers
            else LocalTeacher()
        )
        teacher.bind(bound or frozen, renderer.tokenizer)
        teacher.stop_token_ids = renderer.stop_token_ids()
        made.append(teacher)
        return teacher

    yield make
    for teacher in made:
        teacher.close()


def chunks_and_prompts(pocket):
    """Contexts of 200 tokens, each with prompts out of the corpus itself."""
    _, renderer, ids = pocket
    for start in range(0, 200 * CHUNKS, 200):
        words = [ids[start + 10 * i : start + 10 * i + 8] for i in range(QUESTIONS)]
        prompts = [renderer.prompt_ids([user(renderer.tokenizer.decode(w))]) for w in words]
        yield renderer.context_ids(ids[start : start + 200]), prompts


def replies(teacher, context_ids, prompts, *, temperature=0.0, seeds=None, top_k=20):
    return teacher.complete(
        context_ids=context_ids,
        prompts=prompts,
        sampling=Sampling(temperature, 32),
        seeds=range(len(prompts)) if seeds is None else seeds,
        top_k=top_k,
    )


def rows(reply):
    """One mapping of ids to log-probabilities per token, of a completion or a message."""
    ids, values = reply.top_logprobs.dense()
    return [
        {i: v for i, v in zip(*row, strict=True) if np.isfinite(v)} for row in zip(ids, values, strict=True)
    ]


def test_token_ids_and_log_probabilities_are_the_local_teacher_s(servers, pocket, teach, figure):
    local, remote = teach(), teach(servers[0])
    tokens, largest = 0, 0.0
    for context_ids, prompts in chunks_and_prompts(pocket):
        pairs = zip(replies(local, context_ids, prompts), replies(remote, context_ids, prompts), strict=True)
        for mine, theirs in pairs:
            assert mine.token_ids.tolist() == theirs.token_ids.tolist() and mine.finished == theirs.finished
            for row, (ours, served) in enumerate(zip(rows(mine), rows(theirs), strict=True)):
                # A row may be cut one entry sooner or later where its mass comes within rounding of 0.99.
                few = ours.keys() ^ served.keys()
                assert len(few) <= 1 and ours.keys() & served.keys(), (row, ours, served)
                largest = max(largest, *(abs(ours[i] - served[i]) for i in ours.keys() & served.keys()))
                tokens += 1
    figure(f"{tokens} tokens of {CHUNKS * QUESTIONS} replies, largest difference {largest:.2g} nats")
    assert tokens > 200 and largest < TOLERANCE_NATS
    assert not remote.counts


def test_a_sampled_reply_is_decided_by_its_seed_and_scored_at_temperature_1(servers, pocket, teach):
    model, _, _ = pocket
    remote = teach(servers[0])
    context_ids, prompts = next(chunks_and_prompts(pocket))
    together = replies(remote, context_ids, prompts, temperature=0.8)
    alone = replies(remote, context_ids, prompts[2:3], temperature=0.8, seeds=[2])
    other = replies(remote, context_ids, prompts[2:3], temperature=0.8, seeds=[7])
    assert together[2].token_ids.tolist() == alone[0].token_ids.tolist() != other[0].token_ids.tolist()
    for prompt, completion in zip(prompts, together, strict=True):
        ids = torch.tensor([[*context_ids, *prompt, *completion.token_ids.tolist()]])
        with torch.no_grad():
            expected = model(ids).logits[0].log_softmax(-1).numpy()
        first = ids.shape[1] - len(completion.token_ids) - 1
        for row, served in enumerate(rows(completion)):
            assert all(abs(expected[first + row, i] - v) < TOLERANCE_NATS for i, v in served.items())


def test_another_model_is_refused_before_anything_is_asked(servers, pocket, teach):
    context_ids, prompts = next(chunks_and_prompts(pocket))
    other = load_model(MODEL, dtype="float32")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.5 * parameter.std() * torch.randn_like(parameter))
    asked = servers[0].requests
    with pytest.raises(TeacherError, match=f"{servers[0].url} serves another model than the run's.*nats"):
        replies(teach(servers[0], bound=other), context_ids, prompts)
    assert servers[0].requests - asked == 3, "a difference is made sure of, and no prompt is sent"
    assert replies(teach(servers[0], bound=other, same_model=False), context_ids, prompts[:1])[0].finished


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"model": "other"}, {}, f"serves {NAME}, and not model='other'"),
        ({}, {"top_k": 21}, "HTTP 400.*top_k=21 against the server's limit.*--max-logprobs"),
        ({}, {"context_ids": [5] * 4200}, "HTTP 400.*4[0-9]+ tokens against its context.*--max-model-len"),
    ],
    ids=["model", "top_k", "context"],
)
def test_what_the_server_refuses_is_said_at_once(servers, pocket, teach, settings, options, message):
    context_ids, prompts = next(chunks_and_prompts(pocket))
    with pytest.raises(TeacherError, match=message):
        replies(teach(servers[0], **settings), **({"context_ids": context_ids, "prompts": prompts} | options))


def test_throughput_is_measured(servers, capsys, figure):
    figures = openai_teacher.main(["--quick", "--base-urls", servers[0].url])
    assert [result["in_flight"] for result in figures["results"]] == [None, 1, 8, 32]
    assert all(result["conversations_per_s"] > 0 for result in figures["results"])
    assert all(result["same_replies"] == 1.0 for result in figures["results"])
    assert all(result["cached_prompt_share"] > 0.3 for result in figures["results"][1:]), (
        "a chunk is read once"
    )
    figure(capsys.readouterr().out)


def fit(folder: Path, *options: str) -> subprocess.Popen[str]:
    """As a user would, greedy questions and answers, so that the recording is decided by the model alone."""
    command = [sys.executable, "-m", "lit_cartridges.cli", "fit", "--config", "recipes/pocket.yaml"]
    command += [*options, "--trainer.default_root_dir", str(folder), "--trainer.callbacks", "[]"]
    command += ["--data.source.question_temperature", "0", "--data.source.conversations_per_group", "16"]
    command += ["--data.groups_per_round", "1", "--data.uses", "1", "--trainer.log_every_n_steps", "1"]
    with (folder.with_suffix(".log")).open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, text=True)


def finish(run: subprocess.Popen[str], folder: Path) -> str:
    try:
        run.wait(1200)
    finally:
        run.kill()
    said = folder.with_suffix(".log").read_text()
    assert run.returncode == 0, said[-4000:]
    return said


def recorded(folder: Path):
    recording = Recording(folder / "recording", tokenizer=load_tokenizer(MODEL))
    return {group: recording.read_group(group) for group in recording.groups()}


def test_a_run_from_the_command_line_goes_on_when_one_of_its_servers_is_killed(servers, tmp_path, figure):
    local, served = tmp_path / "local", tmp_path / "served"
    steps = ("--trainer.max_steps", "4")
    finish(fit(local, *steps), local)
    before = [server.requests for server in servers]
    urls = f"[{', '.join(server.url for server in servers)}]"
    overlay = ("--config", "recipes/teachers/vllm.yaml", "--data.source.teacher.base_urls", urls)
    run = fit(
        served,
        *overlay,
        "--data.source.teacher.model",
        NAME,
        "--data.source.teacher.max_requests_in_flight",
        "8",
        *steps,
    )
    with ThreadPoolExecutor() as executor:
        killing = executor.submit(kill_in_mid_run, servers, before, run)
        said = finish(run, served)
    at_kill, after = killing.result(), answered(servers, before)
    figure(f"requests answered by each server: {at_kill} when the second was killed, {after} in the end")
    assert at_kill[1] >= KILL_AFTER and max(at_kill) <= 2 * min(at_kill), "the servers share the work"
    assert after[0] > at_kill[0] + KILL_AFTER and after[1] <= at_kill[1] + 4, "the other goes on"
    assert f"teacher {servers[1].url}: " in said
    mine, theirs = recorded(local), recorded(served)
    groups = sorted(mine.keys() & theirs.keys())
    assert groups == list(range(len(groups))) and len(groups) >= 3
    largest = 0.0
    for group in groups:
        assert len(mine[group]) == len(theirs[group])
        for ours, other in zip(mine[group], theirs[group], strict=True):
            assert ours.metadata == other.metadata
            for a, b in zip(ours.messages, other.messages, strict=True):
                assert a.content == b.content and a.token_ids.tolist() == b.token_ids.tolist()
            for a, b in zip(ours.answers, other.answers, strict=True):
                for left, right in zip(rows(a), rows(b), strict=True):
                    largest = max(largest, *(abs(left[i] - right[i]) for i in left.keys() & right.keys()))
    count = sum(len(mine[group]) for group in groups)
    figure(f"{count} conversations are the same, largest difference {largest:.2g} nats")
    assert largest < TOLERANCE_NATS


def answered(servers, before) -> list[int]:
    return [server.requests - count for server, count in zip(servers, before, strict=True)]


def kill_in_mid_run(servers, before, run) -> list[int]:
    """Returns what each server had answered by then."""
    while answered(servers, before)[1] < KILL_AFTER and run.poll() is None:
        time.sleep(0.05)
    counts = answered(servers, before)
    servers[1].kill()
    return counts
