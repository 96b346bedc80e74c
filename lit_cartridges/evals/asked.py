"""Questions as token ids, and each process's share of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_cartridges.conversations.conversation import Message
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion


@dataclass(frozen=True)
class AskedQuestion:
    """A question's place among all, its prompt's ids and its reference answer's: without an end token, or as recorded.

    `counted` is False for a repetition that only keeps the processes in step.
    """

    index: int
    prompt_ids: list[int]
    answer_ids: list[int]
    counted: bool = True
    recorded: Message | None = None


def asked(
    renderer: ChatRenderer,
    questions: Sequence[EvalQuestion],
    *,
    after_context: bool,
    rank: int = 0,
    world_size: int = 1,
) -> list[AskedQuestion]:
    """The questions of one process: every ``world_size``-th, and repetitions so that all processes have as many.

    Args:
        after_context: the prompts continue a chat behind its system message; if not, they open one.
    """
    share = []
    for place in range(rank, -(-len(questions) // world_size) * world_size, world_size):
        index = place % len(questions)
        question = questions[index]
        render = renderer.prompt_ids if after_context else renderer.bare_prompt_ids
        ids = render([user(question.prompt)], lead=question.lead)
        recorded = question.recorded
        answer = (
            answer_ids(renderer, question.answer, lead=question.lead)
            if recorded is None
            else [int(i) for i in recorded.token_ids]
        )
        share.append(AskedQuestion(index, ids, answer, place < len(questions), recorded))
    return share


def answer_ids(renderer: ChatRenderer, answer: str | None, *, lead: str = "") -> list[int]:
    """The answer as the model would write it after the prompt and the lead, without an end token; nothing where there is none.

    Raises:
        EvalError: the tokenizer makes no token of it.
    """
    if answer is None:
        return []
    ids = renderer.answer_ids(answer.strip(), lead=lead)
    if not ids or not answer.strip():
        raise EvalError(f"the reference answer {answer!r} comes to no tokens; give every question an answer")
    return ids


def reserve_tokens(renderer: ChatRenderer, questions: Sequence[EvalQuestion], max_new_tokens: int) -> int:
    """The most positions that a question and its answer take behind a context."""
    return longest(asked(renderer, questions, after_context=True), max_new_tokens)


def longest(share: Sequence[AskedQuestion], max_new_tokens: int) -> int:
    """The most positions that one of these takes, reply or reference answer."""
    return max(len(one.prompt_ids) + max(max_new_tokens, len(one.answer_ids)) for one in share)
