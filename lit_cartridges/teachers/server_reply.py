"""Token ids and log-probabilities out of a server's /v1/completions reply, which is believed in nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_cartridges.conversations.top_logprobs import TopLogprobs
from lit_cartridges.teachers.server_faults import FaultyReply
from lit_cartridges.teachers.teacher import Completion, TeacherError

_ID_PREFIX = "token_id:"
# Tokens that tie may come out in another order than their log-probabilities, which are rounded (a bf16 server: some 0.01).
_TIE = 0.1
_MOST_MASS = 1.05  # of a row, for the same reason


@dataclass(frozen=True, slots=True)
class Asked:
    """What a reply must fit.

    Attributes:
        max_tokens: the longest reply, its stop token included.
        greedy: whether every token must be the most likely one.
        top_k, min_mass: see `Teacher.complete`.
        vocab_size: ids lie below it.
        decode: text of token ids without special tokens; None when no tokenizer is at hand.
        stop_token_ids: servers leave the one at the end out of a reply's text.
    """

    max_tokens: int = 1
    greedy: bool = True
    top_k: int = 0
    min_mass: float = 1.0
    vocab_size: int = 2**31
    decode: Callable[[list[int]], str] | None = None
    stop_token_ids: tuple[int, ...] = ()


def parse_completions(reply: Any, *, server: str, asked: Asked, prompts: int = 1) -> list[Completion]:
    """The completions of so many prompts, in their order.

    Raises:
        FaultyReply: one is not whole, contradicts itself, or is not what was asked for.
        TeacherError: the server gives no token ids, so asking again is of no use.
    """
    try:
        choices = sorted(reply["choices"], key=lambda choice: choice.get("index", 0))
        if len(choices) != prompts:
            raise FaultyReply("malformed", f"{len(choices)} choices for {prompts} prompts")
        return [_completion(choice, server, asked) for choice in choices]
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise FaultyReply(
            "malformed", f"the reply is no completion ({error!r}): {str(reply)[:200]}"
        ) from error


def _completion(choice: Mapping[str, Any], server: str, asked: Asked) -> Completion:
    reason, logprobs = choice["finish_reason"], choice.get("logprobs") or {}
    if reason not in ("stop", "length"):
        raise FaultyReply("malformed", f"choices[0].finish_reason={reason!r} is neither stop nor length")
    token_ids = _token_ids(choice, logprobs, server, asked)
    _check_text(choice.get("text"), token_ids, asked)
    top = _top_logprobs(logprobs, token_ids, server, asked) if asked.top_k else None
    return Completion(np.asarray(token_ids), top, reason == "stop")


def _token_ids(
    choice: Mapping[str, Any], logprobs: Mapping[str, Any], server: str, asked: Asked
) -> list[int]:
    ids, named = choice.get("token_ids"), [_id_of(token) for token in logprobs.get("tokens") or []]
    if ids is None:
        ids = named or [None]
        if None in ids:
            raise TeacherError(
                f"base_urls: the server {server} gives no token ids, neither in choices[0].token_ids (asked "
                "for by return_token_ids) nor as 'token_id:N' in choices[0].logprobs.tokens "
                "(return_tokens_as_token_ids); use a server that does, such as vLLM 0.10.2 or newer, or the "
                "local teacher"
            )
    elif named and None not in named and named != ids:
        raise FaultyReply("wrong_ids", "choices[0].token_ids and choices[0].logprobs.tokens differ")
    if not len(ids):
        raise FaultyReply("empty_reply", "choices[0] holds no token, not even one that ends the reply")
    if len(ids) > asked.max_tokens:
        raise FaultyReply("too_long", f"{len(ids)} tokens, and max_tokens={asked.max_tokens}")
    for token_id in ids:
        if type(token_id) is not int or not 0 <= token_id < asked.vocab_size:
            raise FaultyReply(
                "wrong_ids", f"choices[0] holds token {token_id!r}, and the vocabulary has {asked.vocab_size}"
            )
    return list(ids)


def _check_text(text: Any, token_ids: list[int], asked: Asked) -> None:
    """The text beside the ids must be theirs. White space, and characters cut in two, are not compared."""
    if asked.decode is None or not isinstance(text, str) or not text.strip():
        return
    ours = asked.decode(token_ids[:-1] if token_ids[-1] in asked.stop_token_ids else token_ids)
    if _bare(ours) != _bare(text):
        raise FaultyReply(
            "wrong_text",
            f"the server's text is {text[:80]!r}, and its token ids decode to {ours[:80]!r}: it reads "
            "them with another tokenizer, or they are another reply's",
        )


def _bare(text: str) -> str:
    return "".join(text.replace("\ufffd", "").split())


def _top_logprobs(
    logprobs: Mapping[str, Any], token_ids: list[int], server: str, asked: Asked
) -> TopLogprobs:
    rows, top_k = logprobs.get("top_logprobs"), asked.top_k
    if not isinstance(rows, Sequence) or len(rows) != len(token_ids):
        found = len(rows) if isinstance(rows, Sequence) else "no"
        raise FaultyReply(
            "missing_logprobs",
            f"{found} rows in choices[0].logprobs.top_logprobs for {len(token_ids)} tokens",
        )
    ids = np.zeros((len(rows), top_k), dtype=np.int32)
    values = np.full((len(rows), top_k), -np.inf, dtype=np.float32)
    for number, row in enumerate(rows):
        entries = _entries(row, number, server, asked)
        _check_sampled(entries, token_ids[number], number, asked)
        # A server puts the sampled token first, and adds it where it is not among the top k: so there may be one too many.
        best = sorted(entries.items(), key=lambda entry: -entry[1])[:top_k]
        ids[number, : len(best)] = [token_id for token_id, _ in best]
        values[number, : len(best)] = [value for _, value in best]
    mass = np.exp(values.astype(np.float64)).sum(1)
    if mass.max() > _MOST_MASS:
        raise FaultyReply(
            "bad_logprobs",
            f"the probabilities in choices[0].logprobs.top_logprobs[{mass.argmax()}] sum to {mass.max():.3g}",
        )
    try:
        return TopLogprobs.from_dense(ids, values, min_mass=asked.min_mass)
    except ValueError as error:
        raise FaultyReply("bad_logprobs", str(error)) from error


def _entries(row: Any, number: int, server: str, asked: Asked) -> dict[int, float]:
    where = f"choices[0].logprobs.top_logprobs[{number}]"
    if not isinstance(row, Mapping) or not row:
        raise FaultyReply("missing_logprobs", f"{where} is missing")
    entries: dict[int, float] = {}
    for token, value in row.items():
        token_id = _id_of(token)
        if token_id is None:
            raise TeacherError(
                f"base_urls: the server {server} names tokens by their text ({token!r}) in "
                "choices[0].logprobs.top_logprobs; texts are ambiguous, use a server that knows "
                "return_tokens_as_token_ids, such as vLLM, or the local teacher"
            )
        if token_id >= asked.vocab_size:
            raise FaultyReply(
                "wrong_ids", f"{where} holds token {token_id}, and the vocabulary has {asked.vocab_size}"
            )
        if not isinstance(value, (int, float)) or math.isnan(value) or value == math.inf:
            raise FaultyReply("bad_logprobs", f"{where} holds {value} for token {token_id}")
        entries[token_id] = float(value)
    return entries


def _check_sampled(entries: Mapping[int, float], token_id: int, number: int, asked: Asked) -> None:
    """Is the token in its row, and the most likely one where decoding is greedy?"""
    where = f"choices[0].logprobs.top_logprobs[{number}]"
    if token_id not in entries:
        # Some servers list the top k alone, which at a temperature need not hold the sampled token.
        if asked.greedy or len(entries) < asked.top_k:
            raise FaultyReply("missing_logprobs", f"{where} lacks token {token_id}, which was sampled")
    elif asked.greedy and entries[token_id] < max(entries.values()) - _TIE:
        raise FaultyReply(
            "wrong_ids", f"{where}: token {token_id} is not the most likely one, and temperature is 0"
        )


def _id_of(token: Any) -> int | None:
    if not isinstance(token, str) or not token.startswith(_ID_PREFIX):
        return None
    number = token.removeprefix(_ID_PREFIX)
    return int(number) if number.isdecimal() else None
