"""The fields of a request's body: each is taken, checked, and whatever is left over is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lit_cartridges.files.content import named, one_line
from lit_cartridges.serving.refusals import Refusal, field_refusal

# Fields that change nothing here, with any value.
_WITHOUT_EFFECT = frozenset(
    "user metadata safety_identifier prompt_cache_key prompt_cache_retention parallel_tool_calls".split()
)
# Fields that would change the reply, with the values that ask for what is done anyway.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_k": (0, -1),
    "use_beam_search": (False,),
}
_WHY = {
    "echo": "the positions of a cartridge have no tokens that could be echoed",
    "prompt_logprobs": "the positions of a cartridge have no tokens whose log-probabilities could be given",
    "kv_transfer_params": "what a request reads is named by its model alone",
    "repetition_penalty": "the positions of a cartridge have no tokens that could be counted as said; presence_penalty and "
    "frequency_penalty are served",
    "response_format": "no reply is tied to a grammar; ask for the form in the question, and check the reply",
    "tools": "a chat's template describes tools in the system message, in whose place a cartridge stands",
}


class Fields:
    """A body's fields; null is as good as left out."""

    def __init__(self, body: Any, *, called: str = "the body") -> None:
        if not isinstance(body, dict):
            raise Refusal(f"{called} must be a JSON object, found {named(body)}", code="invalid_body")
        self._left = {name: value for name, value in body.items() if value is not None}

    def take(self, name: str, default: Any = None) -> Any:
        """Any value."""
        return self._left.pop(name, default)

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self.take(name)
        if not isinstance(value, str) or not value:
            raise field_refusal(name, f"must be a text, found {named(value)}")
        return value

    def flag(self, name: str) -> bool:
        """A switch; false where it is left out."""
        value = self.take(name, False)
        if not isinstance(value, bool):
            raise field_refusal(name, f"must be true or false, found {named(value)}")
        return value

    def whole(self, name: str, default: int | None, *, least: int, most: int) -> Any:
        """A whole number between bounds that are allowed; ``default`` where it is left out."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise field_refusal(name, f"must be a whole number from {least} to {most}, found {named(value)}")
        return value

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        """A number between bounds that are allowed."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise field_refusal(name, f"must be a number from {least:g} to {most:g}, found {named(value)}")
        return float(value)

    def refuse_the_rest(self) -> None:
        """Raise `Refusal` for a field that is not known, or asks for what is not done."""
        for name, value in self._left.items():
            if name in _WITHOUT_EFFECT or any(_same(value, known) for known in _NEUTRAL.get(name, ())):
                continue
            shown = one_line(repr(name), 80)
            if name in _NEUTRAL:
                only = " or ".join(repr(known) for known in _NEUTRAL[name])
                why = _WHY.get(name, f"only {only} is served")
                raise Refusal(f"{name}: {why}; leave it out", param=name, code="unsupported_value")
            why = _WHY.get(name, "this server does not know it, and does not answer as if it were not there")
            raise Refusal(f"{shown}: {why}; leave it out", param=name[:80], code="unknown_field")


def _same(value: Any, known: Any) -> bool:
    if isinstance(known, bool) or isinstance(value, bool):
        return value is known
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return bool(value == known)
