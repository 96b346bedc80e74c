"""How well a system retrieves passkeys: texts of one length, with the key at one depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel

from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.asked import reserve_tokens
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.systems import AskedKind, Sizes, SystemInput, chosen
from lit_cartridges.evals.tasks.passkey import EnglishPasskey, PasskeyLanguage
from lit_cartridges.evals.tasks.task import EvalQuestion, EvalTask
from lit_cartridges.text import text_ids

__all__ = ["EnglishPasskey", "PasskeyCell", "PasskeyLanguage", "passkey_cell"]


@dataclass(frozen=True, kw_only=True)
class PasskeyCell:
    """One system at one length and depth: shares, over ``samples`` texts, of right digits and of wholly right keys."""

    system: str
    num_tokens: int
    depth: float
    samples: int
    per_digit: float
    exact: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class _Questions(EvalTask):
    def __init__(self, questions: Sequence[EvalQuestion]) -> None:
        self._questions = questions

    def questions(self) -> Sequence[EvalQuestion]:
        return self._questions


def passkey_cell(
    model: PreTrainedModel,
    renderer: ChatRenderer,
    system: str,
    language: PasskeyLanguage,
    options: CascadeOptions,
    *,
    num_tokens: int,
    depth: float,
    samples: int,
    max_new_tokens: int,
    max_context_tokens: int | None = None,
    first_seed: int = 0,
) -> PasskeyCell:
    """Ask ``system`` for the keys of ``samples`` texts; the same texts for every system.

    Args:
        first_seed: of the texts, which have one seed after the other.

    Raises:
        ContextTooLong: "icl", and a text does not fit.
    """
    [kind] = chosen([system], AskedKind)
    digits = right = exact = 0
    for seed in range(first_seed, first_seed + samples):
        sample = language.sample(renderer.tokenizer, num_tokens=num_tokens, depth=depth, seed=seed)
        reserve = reserve_tokens(renderer, sample.questions, max_new_tokens)
        ids = text_ids(renderer.tokenizer, sample.text)
        sizes = Sizes(cascade=options, reserve_tokens=reserve, max_context_tokens=max_context_tokens)
        read = kind.read(SystemInput(model=model, renderer=renderer, corpus_ids=ids, sizes=sizes))
        replies = evaluate(
            model, renderer, read, _Questions(sample.questions), max_new_tokens=max_new_tokens
        ).replies
        found = language.digits([reply.reply for reply in replies])
        # A digit counts at its own place only.
        hits = [a == b for a, b in zip(sample.key, found, strict=False)]
        digits += len(sample.key)
        right += sum(hits)
        exact += sum(hits) == len(sample.key) == len(found)
    return PasskeyCell(
        system=system,
        num_tokens=num_tokens,
        depth=depth,
        samples=samples,
        per_digit=right / digits,
        exact=exact / samples,
    )
