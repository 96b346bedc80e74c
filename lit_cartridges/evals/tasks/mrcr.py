"""After OpenAI's MRCR: find again one of many similar replies of a long conversation. The conversations are made."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Literal

from lit_cartridges.evals.generators.similar_requests import SimilarRequests, ratio_after_mark, tagged_f1
from lit_cartridges.evals.tasks.generated import GeneratedCorpus, GeneratedTask, haystack_sentences, made
from lit_cartridges.evals.tasks.passkey import EnglishPasskey
from lit_cartridges.evals.tasks.ruler import LengthTokens
from lit_cartridges.evals.tasks.task import EvalQuestion
from lit_cartridges.settings import NonNegativeInt, Range, ReadPath, Seed, checked

Needles = Annotated[int, Range(least=2, most=8)]


class Mrcr(GeneratedTask):
    """Asks for each of the replies to a request that was made several times, with drawn letters in front. MRCR-like, not MRCR.

    Args:
        model: whose tokenizer counts: a Hub id, a folder, or ``package:NAME/FOLDER``.
        num_tokens: of the conversation, its longest question and a reply together; the chat template comes on top.
        needles: times that the request is made, and questions.
        score_by: "ratio": OpenAI's, difflib's ratio, and 0 where the letters are not in front; "token_f1": the cartridge
            paper's, F1 of the words between ``<start>`` and ``<end>``. A reply is right whose score is 1.
        seed, index: decide the conversation; the ``index``-th of a seed.
        lines: a text file or a folder of them, whose sentences are the replies' lines; generated ones by default.
    """

    @checked
    def __init__(
        self,
        *,
        model: str,
        num_tokens: LengthTokens = 4096,
        needles: Needles = 8,
        score_by: Literal["ratio", "token_f1"] = "ratio",
        seed: Seed = 0,
        index: NonNegativeInt = 0,
        lines: ReadPath | None = None,
    ) -> None:
        self.score_by = score_by
        self.title = f"{needles} needles {num_tokens} {seed}.{index}"
        known = None if lines is None else haystack_sentences(str(lines))
        templates = EnglishPasskey()

        def line(rng: random.Random) -> str:
            return templates.filler(rng) if known is None else rng.choice(known)

        self.generator = SimilarRequests(line=line, needles=needles, tags=score_by == "token_f1")
        self.made = made(self.generator, model, num_tokens=num_tokens, seed=f"mrcr {seed} {index}")

    def reference(self, answers: Sequence[str]) -> str:
        """The reply with its letters; behind them the letters alone are kept, for the score."""
        return answers[0]

    def score(self, question: EvalQuestion, reply: str) -> float:
        """See ``score_by``."""
        answer, mark = question.values
        return (
            tagged_f1(reply, answer) if self.score_by == "token_f1" else ratio_after_mark(reply, answer, mark)
        )


class MrcrCorpus(GeneratedCorpus):
    """The conversation that `Mrcr` with the same settings asks about."""

    @checked
    def __init__(
        self,
        *,
        model: str,
        num_tokens: LengthTokens = 4096,
        needles: Needles = 8,
        score_by: Literal["ratio", "token_f1"] = "ratio",
        seed: Seed = 0,
        index: NonNegativeInt = 0,
        lines: ReadPath | None = None,
    ) -> None:
        super().__init__(
            Mrcr(
                model=model,
                num_tokens=num_tokens,
                needles=needles,
                score_by=score_by,
                seed=seed,
                index=index,
                lines=lines,
            )
        )
