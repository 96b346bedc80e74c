"""What a body asks for, checked: a chat's next message, or how a text goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_cartridges.files.content import named
from lit_cartridges.serving.choice import ScoreChanges
from lit_cartridges.serving.fields import Fields
from lit_cartridges.serving.refusals import Refusal, field_refusal

_MOST_MESSAGES, _MOST_STOPS, _MOST_STOP_CHARACTERS, _MOST_LOGPROBS = 2000, 16, 200, 20
_MOST_TOKENS, _MOST_BIAS, _MOST_BIASED = 2**31 - 1, 100, 1024
_WHOLE = re.compile("[0-9]{1,9}", re.ASCII)
_COLDEST = 1e-4  # below it scores divided by it are no numbers, and the likeliest token is taken
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What chats and completions have in common.

    Args:
        model: a cartridge's name, several joined by "+", or the model's.
        logprobs: how many tokens' log-probabilities beside the chosen one's; None for none at all.
        max_new_tokens: None leaves it to the server.
        include_usage: a last event of a stream counts the tokens.
    """

    model: str
    n: int
    temperature: float
    top_p: float
    seed: int | None
    stops: tuple[str, ...]
    max_new_tokens: int | None
    logprobs: int | None
    changes: ScoreChanges
    stream: bool
    include_usage: bool


@dataclass(frozen=True, kw_only=True)
class ChatAsked(Asked):
    """A chat's next message.

    Args:
        messages: role (user, assistant, system) and content of each.
        routed: whether a router of the cartridge may have it answered without.
    """

    messages: Sequence[Mapping[str, str]]
    routed: bool = True


@dataclass(frozen=True, kw_only=True)
class CompletionAsked(Asked):
    """How a text goes on.

    Args:
        prompt: a text, or its token ids.
    """

    prompt: str | list[int]


def chat_asked(body: Any, *, max_rows: int, vocabulary: int) -> ChatAsked:
    """Of the body of ``/v1/chat/completions``.

    Raises:
        Refusal: a field that is wrong, unknown, or asks for what is not served.
    """
    fields = Fields(body)
    messages = _messages(fields.take("messages"))
    logprobs, top = fields.flag("logprobs"), fields.whole("top_logprobs", None, least=0, most=_MOST_LOGPROBS)
    if top is not None and not logprobs:
        raise field_refusal("top_logprobs", "goes with logprobs=true; set it")
    newer = fields.whole("max_completion_tokens", None, least=1, most=_MOST_TOKENS)
    older = fields.whole("max_tokens", None, least=1, most=_MOST_TOKENS)
    if newer is not None and older is not None and newer != older:
        raise field_refusal("max_tokens", f"is {older}, and max_completion_tokens {newer}; give one of them")
    router = fields.take("router", "auto")
    if router not in ("auto", "off"):
        raise field_refusal("router", f"must be auto or off, found {named(router)}")
    return ChatAsked(
        **_common(fields, max_rows, vocabulary),
        messages=messages,
        routed=router == "auto",
        max_new_tokens=newer if older is None else older,
        logprobs=(top or 0) if logprobs else None,
    )


def completion_asked(body: Any, *, max_rows: int, vocabulary: int) -> CompletionAsked:
    """Of the body of ``/v1/completions``.

    Raises:
        Refusal: see `chat_asked`.
    """
    fields = Fields(body)
    prompt = _prompt(fields.take("prompt"), vocabulary)
    best_of = fields.take("best_of")
    # 16 as OpenAI has it, where a chat goes on as long as it may.
    max_new_tokens = fields.whole("max_tokens", 16, least=1, most=_MOST_TOKENS)
    logprobs = fields.whole("logprobs", None, least=0, most=_MOST_LOGPROBS)
    common = _common(fields, max_rows, vocabulary)
    if best_of is not None and (isinstance(best_of, bool) or best_of != common["n"]):
        raise field_refusal("best_of", "only as many as n are served; leave it out")
    return CompletionAsked(**common, prompt=prompt, max_new_tokens=max_new_tokens, logprobs=logprobs)


def _common(fields: Fields, max_rows: int, vocabulary: int) -> dict[str, Any]:
    model = fields.take("model")
    if not isinstance(model, str) or not model:
        raise field_refusal(
            "model", f"must name a cartridge, found {named(model)}; GET /v1/models lists them"
        )
    stream, options = (
        fields.flag("stream"),
        Fields(fields.take("stream_options", {}), called="stream_options"),
    )
    include_usage = options.flag("include_usage")
    temperature = fields.number("temperature", 1.0, least=0, most=2)
    options.refuse_the_rest()
    common = {
        "model": model,
        "n": fields.whole("n", 1, least=1, most=max_rows),
        "temperature": temperature if temperature >= _COLDEST else 0.0,
        "top_p": fields.number("top_p", 1.0, least=0, most=1),
        "seed": fields.whole("seed", None, least=-(2**63), most=2**63 - 1),
        "stops": _stops(fields.take("stop")),
        "changes": _changes(fields, vocabulary),
        "stream": stream,
        "include_usage": include_usage,
    }
    fields.refuse_the_rest()
    return common


def _changes(fields: Fields, vocabulary: int) -> ScoreChanges:
    presence, frequency = (
        fields.number(f"{name}_penalty", 0.0, least=-2, most=2) for name in ("presence", "frequency")
    )
    given = fields.take("logit_bias", {})
    if not isinstance(given, dict) or len(given) > _MOST_BIASED:
        raise field_refusal(
            "logit_bias", f"must be an object of at most {_MOST_BIASED} token ids, found {named(given)}"
        )
    added = {}
    for name, value in given.items():
        if not _WHOLE.fullmatch(name) or int(name) >= vocabulary:
            raise field_refusal(
                "logit_bias", f"must name token ids from 0 to {vocabulary - 1}, found {named(name)}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MOST_BIAS:
            raise field_refusal(
                "logit_bias", f"must hold numbers from -{_MOST_BIAS} to {_MOST_BIAS}, found {named(value)}"
            )
        added[int(name)] = float(value)
    return ScoreChanges(presence=presence, frequency=frequency, added=added)


def _stops(given: Any) -> tuple[str, ...]:
    stops = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or len(stops) > _MOST_STOPS:
        raise field_refusal("stop", f"must be a text or at most {_MOST_STOPS} of them, found {named(given)}")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= _MOST_STOP_CHARACTERS:
            raise field_refusal(
                "stop", f"must be texts of 1 to {_MOST_STOP_CHARACTERS} characters, found {named(stop)}"
            )
    return tuple(dict.fromkeys(stops))


def _messages(given: Any) -> list[dict[str, str]]:
    if not isinstance(given, list) or not 0 < len(given) <= _MOST_MESSAGES:
        raise field_refusal(
            "messages", f"must be a list of 1 to {_MOST_MESSAGES} messages, found {named(given)}"
        )
    messages = []
    for at, message in enumerate(given):
        name = f"messages[{at}]"
        if not isinstance(message, dict):
            raise field_refusal(name, f"must be an object with role and content, found {named(message)}")
        said = {key: value for key, value in message.items() if value is not None and value != []}
        role = said.pop("role", None)
        if not isinstance(role, str) or role not in _ROLES:
            raise field_refusal(f"{name}.role", f"must be one of {', '.join(_ROLES)}, found {named(role)}")
        content = _text(said.pop("content", None), f"{name}.content")
        if said:
            more = ", ".join(sorted(map(str, said)))[:80]
            raise field_refusal(name, f"has {more}, which this server does not know; give role and content")
        messages.append({"role": _ROLES[role], "content": content})
    return messages


def _text(content: Any, name: str) -> str:
    """A message's text, or that of its parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise field_refusal(name, f"must be a text, found {named(content)}")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise field_refusal(name, f"has a part of type {named(kind)}; a cartridge is asked in text alone")
        if set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise field_refusal(name, "has a text part of another form than {type, text}")
    return "".join(part["text"] for part in content)


def _prompt(given: Any, vocabulary: int) -> str | list[int]:
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], str | list):
        given = given[0]
    if isinstance(given, str) and given:
        return given
    if not isinstance(given, list) or not given:
        raise field_refusal("prompt", f"must be a text or a list of token ids, found {named(given)}")
    if any(isinstance(one, str | list) for one in given):
        raise Refusal(
            "prompt: one prompt a request is served; send the others in requests of their own",
            param="prompt",
            code="unsupported_value",
        )
    for one in given:
        if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < vocabulary:
            raise field_refusal(
                "prompt", f"must hold token ids from 0 to {vocabulary - 1}, found {named(one)}"
            )
    return list(given)
