"""Every fault that a teacher's server can have, by name: what the tests' server does, and what it is counted as."""

from __future__ import annotations

import math
import threading
import zlib
from collections import Counter

import numpy as np
import torch

from lit_cartridges.models import load_model
from lit_cartridges.teachers import LocalTeacher, Sampling
from tests.tiny_run import tokenizer


def model_answer(folder):
    """A server's way to answer: with a model of its own, as `LocalTeacher` would."""
    teacher, lock = LocalTeacher(), threading.Lock()
    teacher.bind(load_model(folder, dtype="float32", device=torch.device("cpu")), tokenizer())

    def answer(body):
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        with lock:
            teacher.stop_token_ids = tuple(body["stop_token_ids"])
            completions = teacher.complete(
                context_ids=[],
                prompts=prompts,
                sampling=Sampling(body["temperature"], body["max_tokens"]),
                seeds=[body["seed"]] * len(prompts),
                top_k=body["logprobs"],
                min_mass=1.0,
            )
        return {"choices": [{"index": i, **choice_of(c)} for i, c in enumerate(completions)]}

    return answer


def choice_of(completion):
    """As vLLM writes it."""
    new, top = completion.token_ids.tolist(), completion.top_logprobs
    rows = [{} for _ in new]
    for row, token_id, value in zip(top.token_idx, top.token_id, top.logprobs, strict=True):
        rows[row][f"token_id:{token_id}"] = float(value)
    shown = new[:-1] if completion.finished else new
    return {
        "text": tokenizer().decode(shown, skip_special_tokens=True),
        "finish_reason": "stop" if completion.finished else "length",
        "logprobs": {"tokens": [f"token_id:{i}" for i in new], "top_logprobs": rows},
        "token_ids": new,
    }


def of_choice(change):
    """A fault of the reply: `change(choice, rows)` spoils it."""

    def fault(reply):
        choice = reply["choices"][0]
        change(choice, choice["logprobs"]["top_logprobs"])
        return reply

    return fault


def with_ids(change):
    """Another reply's ids, in every place where they stand."""

    def fault(choice, rows):
        choice["token_ids"] = ids = change(choice["token_ids"])
        choice["logprobs"]["tokens"] = [f"token_id:{i}" for i in ids]

    return of_choice(fault)


def last_row(value):
    def change(choice, rows):
        rows[-1] = value if value is None else dict.fromkeys(rows[-1], value)

    return of_choice(change)


def without_sampled(choice, rows):
    del rows[-1][f"token_id:{choice['token_ids'][-1]}"]


def beyond_in_row(choice, rows):
    rows[-1] = {**rows[-1], "token_id:1000000": -9.0}


def longer(choice, rows):
    choice["token_ids"] += choice["token_ids"] * 40
    choice["logprobs"]["tokens"], choice["text"] = [], ""


def other_tokenizer(choice, rows):
    choice["text"] = tokenizer().decode([(i + 1) % 90 + 7 for i in choice["token_ids"]])


def empty(choice, rows):
    choice.update(token_ids=[], text="", finish_reason="stop", logprobs={"tokens": [], "top_logprobs": []})


def set_to(**values):
    return of_choice(lambda choice, rows: choice.update(values))


# name: (what the server does, what the teacher counts)
FAULTS = {
    "time-out": ("hang", "time_out"),
    "429": ((429, {}), "http_429"),
    "429 with Retry-After": ((429, {"Retry-After": "0.05"}), "http_429"),
    "500": ((500, {}), "http_500"),
    "503": ((503, {"Retry-After": "0.05"}), "http_503"),
    "cut in mid-answer": ("cut", "cut_connection"),
    "truncated JSON": ("truncated", "no_json"),
    "no JSON": ("no json", "no_json"),
    "no choices": (lambda reply: {"choices": []}, "malformed"),
    "null choices": (lambda reply: {"choices": None}, "malformed"),
    "a list": (lambda reply: [reply], "malformed"),
    "token_ids no list": (set_to(token_ids=7), "wrong_ids"),
    "aborted": (set_to(finish_reason="abort"), "malformed"),
    "id beyond the vocabulary": (with_ids(lambda ids: [*ids[:-1], 1_000_000]), "wrong_ids"),
    "id of another type": (with_ids(lambda ids: [*ids[:-1], "7"]), "wrong_ids"),
    "negative id": (with_ids(lambda ids: [*ids[:-1], -1]), "wrong_ids"),
    "two lists of ids": (of_choice(lambda choice, rows: choice["token_ids"].reverse()), "wrong_ids"),
    "ids of another reply": (with_ids(lambda ids: [8, *ids[1:-1], 9]), "wrong_text"),
    "another tokenizer": (of_choice(other_tokenizer), "wrong_text"),
    "sampled token not in its row": (of_choice(without_sampled), "missing_logprobs"),
    "id beyond the vocabulary in a row": (of_choice(beyond_in_row), "wrong_ids"),
    "no log-probabilities": (of_choice(lambda choice, rows: rows.clear()), "missing_logprobs"),
    "fewer rows than tokens": (of_choice(lambda choice, rows: rows.pop()), "missing_logprobs"),
    "more rows than tokens": (of_choice(lambda choice, rows: rows.append(rows[0])), "missing_logprobs"),
    "null row": (last_row(None), "missing_logprobs"),
    "empty row": (of_choice(lambda choice, rows: rows[-1].clear()), "missing_logprobs"),
    "NaN": (last_row(math.nan), "bad_logprobs"),
    "null": (last_row("x"), "bad_logprobs"),
    "positive": (last_row(0.5), "bad_logprobs"),
    "infinite": (last_row(math.inf), "bad_logprobs"),
    "certain of everything": (last_row(0.0), "bad_logprobs"),
    "longer than asked": (of_choice(longer), "too_long"),
    "empty reply": (of_choice(empty), "empty_reply"),
}


class RandomFaults:
    """A `next_fault` that spoils a share of the requests, decided by seed, request and attempt, not by their order."""

    def __init__(self, *, seed, share, names=tuple(FAULTS)):
        self.seed, self.share, self.names = seed, share, names
        self.attempts, self.made = Counter(), Counter()

    def __call__(self, body):
        request = zlib.crc32(str((body["prompt"], body["seed"], body["max_tokens"])).encode())
        self.attempts[request] += 1
        rng = np.random.default_rng([self.seed, request, self.attempts[request]])
        if rng.random() >= self.share:
            return None
        name = self.names[rng.integers(len(self.names))]
        self.made[name] += 1
        return FAULTS[name][0]
