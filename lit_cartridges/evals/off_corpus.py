"""What a system does to everything else that the model could do (Cartridges++, 2026): tasks that are not about its corpus.

Beside a task's own figures: the share of replies that abstain, and how far the system is from the bare model (no corpus, no
cartridge) over the replies that the bare model writes: KL(bare ‖ system) per token, over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_cartridges.attention import reads_prefixes
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.asked import AskedQuestion, asked, longest
from lit_cartridges.evals.evaluate import Decoding, answer_hidden, eval_mode, evaluate, reply_ids
from lit_cartridges.evals.result import EvalResult
from lit_cartridges.evals.statistics import Mean
from lit_cartridges.evals.systems import System, no_context
from lit_cartridges.evals.tasks.task import EvalTask, normalised
from lit_cartridges.losses import FullDistillation, LanguageHead, Targets, chunked_loss

ABSTENTIONS = (
    *("not known", "unknown", "don't know", "do not know", "not sure", "cannot answer", "can't answer"),
    *(
        "cannot determine",
        "can't determine",
        "no information",
        "not mentioned",
        "not provided",
        "not specified",
    ),
    *(
        "not stated",
        "not contain",
        "doesn't contain",
        "not available",
        "don't have",
        "do not have",
        "cannot find",
    ),
)
"""Phrases of which a reply that abstains has one; case and punctuation do not matter."""
ABSTAINED, DIVERGENCE, LIKELIHOOD = "abstains", "KL(bare ‖ system)", "log-lik. of bare replies"


class OffCorpus:
    """A task that is not about the corpus, with the bare model's replies to it.

    Args:
        model: frozen.
        abstentions: phrases of which a reply that abstains has one.
        batch_size, max_new_tokens, num_questions, progress: as of `evaluate`.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: PreTrainedModel,
        renderer: ChatRenderer,
        task: EvalTask,
        *,
        abstentions: Sequence[str] = ABSTENTIONS,
        batch_size: int = 64,
        max_new_tokens: int = 64,
        num_questions: int | None = None,
        progress: bool = False,
    ) -> None:
        self.model, self.renderer, self.task, self.bare = model, renderer, task, no_context()
        self.abstentions = require_abstentions(abstentions)
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.num_questions, self.progress = num_questions, progress
        self.questions = task.pick(num_questions)
        share = asked(renderer, self.questions, after_context=False)
        self.bare.require_room(model.config, longest(share, max_new_tokens))
        self._replies: list[list[int]] = []
        with eval_mode(model), reads_prefixes(model):
            for batch in self._batches(share):
                self._replies += reply_ids(model, renderer, self.bare, batch, Decoding(max_new_tokens))[0]

    def abstains(self, reply: str) -> bool:
        """Whether it has one of the phrases."""
        said = f" {normalised(reply)} "
        return any(f" {phrase} " in said for phrase in self.abstentions)

    @torch.no_grad()
    def of(self, system: System) -> EvalResult:
        """The figures of a system, the bare model included; standard errors are over questions."""
        found = evaluate(
            *(self.model, self.renderer, system, self.task),
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            num_questions=self.num_questions,
            progress=self.progress,
        )
        divergences, log_likelihoods = zip(*self._beside_bare(system), strict=True)
        more = {
            ABSTAINED: Mean.of([float(self.abstains(one.reply)) for one in found.replies]),
            DIVERGENCE: _per_token(divergences),
            LIKELIHOOD: _per_token(log_likelihoods),
        }
        return replace(found, figures={**found.figures, **more})

    def _batches(self, share: Sequence[AskedQuestion]) -> Iterator[list[AskedQuestion]]:
        for start in range(0, len(share), self.batch_size):
            yield [*share[start : start + self.batch_size]]

    def _beside_bare(self, system: System) -> Iterator[tuple[Tensor, Tensor]]:
        """Per question KL(bare ‖ system) and the system's log-likelihoods, each [tokens of the bare model's reply]."""
        head, sides = LanguageHead(self.model), []
        for one in (system, self.bare):
            share = asked(self.renderer, self.questions, after_context=one.uses_context_prompt)
            share = [replace(q, answer_ids=ids) for q, ids in zip(share, self._replies, strict=True)]
            sides.append(self._batches(share))
        with eval_mode(self.model), reads_prefixes(self.model):
            for mine, bares in zip(*sides, strict=True):
                hidden, bare_hidden = (
                    answer_hidden(self.model, one, batch)
                    for one, batch in ((system, mine), (self.bare, bares))
                )
                ids = torch.tensor([i for one in mine for i in one.answer_ids], device=hidden.device)
                targets = Targets(token_ids=ids, teacher_hidden=bare_hidden)
                (_, crossed, nll), (_, entropy, _) = (
                    chunked_loss(states, targets, FullDistillation(), head, teacher_head=head)
                    for states in (hidden, bare_hidden)
                )
                lengths = [len(one.answer_ids) for one in mine]
                yield from zip((crossed - entropy).split(lengths), (-nll).split(lengths), strict=True)


def _per_token(values: Sequence[Tensor]) -> Mean:
    """Mean over all tokens; the standard error is that of the questions' means."""
    return Mean(
        torch.cat([*values]).mean().item(), Mean.of([one.mean().item() for one in values]).standard_error
    )


def require_abstentions(phrases: Sequence[str]) -> list[str]:
    """The phrases as replies are compared with them.

    Raises:
        SettingError: there are none, or one has no word.
    """
    known = [normalised(phrase) for phrase in phrases]
    if not known or not all(known):
        raise SettingError("must be phrases of at least one word", abstentions=list(phrases))
    return known
