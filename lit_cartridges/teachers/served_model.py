"""Does a server serve the run's model? A wrong one trains a cartridge on nonsense without any error.

Before a server gets its first request, and again when it was away, it is asked for the next token after a few short
prompts, and its log-probabilities are held against those of the run's own frozen model. Ids go both ways, so agreement
means the same vocabulary too. Where the run holds no model (`lit-cartridges synthesize`), only the served name is looked
up here; that ids and texts agree is checked in every reply.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.teachers.server_reply import Asked
from lit_cartridges.teachers.teacher import Completion, TeacherError

_log = logging.getLogger(__name__)

_PROMPT_TOKENS = 24
_PREFIX_TOKENS = (3, 10, 17, 24)
_BEST = 5  # tokens of each row; further ones are seldom served, and noisier
# Mean difference in nats. The bundled model served by vLLM differs by 0.000007 in float32 and by 0.036 in bfloat16
# (docs/teachers.md).
_WARN_NATS, _REFUSE_NATS = 0.1, 0.5
_TIMES_ASKED = 3  # a reply that was garbled once must not end a run

Ask = Callable[[list[list[int]], Asked], Awaitable[list[Completion]]]


class ServedModelCheck:
    """The prompts, and what the run's own model says after them."""

    def __init__(self, model: Any, tokenizer: Any, *, asked: Asked) -> None:
        """
        Args:
            model: the frozen model, which reads one prompt of 24 tokens; None when the run holds none.
            tokenizer: gives the ids that may stand in a prompt.
            asked: what the replies must fit beside.
        """
        self.asked = replace(asked, max_tokens=1, greedy=True, top_k=_BEST, min_mass=1.0)
        special = {int(i) for i in tokenizer.all_special_ids}
        plain = np.setdiff1d(np.arange(len(tokenizer)), list(special))
        ids = np.random.default_rng(0).choice(plain, _PROMPT_TOKENS).tolist()
        self.prompts: list[list[int]] = [ids[:n] for n in _PREFIX_TOKENS]
        self.logprobs = None if model is None else _next_token_logprobs(model, ids)

    def look_up(self, model: str, listing: Any, *, url: str) -> None:
        """Is `model` in the server's list of models? A server without such a list is let through.

        Raises:
            TeacherError: naming the models that are served.
        """
        try:
            names = [str(entry["id"]) for entry in listing["data"]]
        except (LookupError, TypeError):
            return
        if names and model not in names:
            raise TeacherError(f"base_urls: {url} serves {', '.join(names)}, and not model={model!r}")

    async def run(self, url: str, ask: Ask) -> None:
        """Hold a server's log-probabilities against the run's model.

        Args:
            ask: completes prompts; its faults are passed on.

        Raises:
            TeacherError: it serves another model.
        """
        if self.logprobs is None:
            return
        for _ in range(_TIMES_ASKED):
            completions = await ask(self.prompts, self.asked)
            difference = _difference(completions, self.logprobs)
            if difference <= _REFUSE_NATS:
                break
        else:
            raise TeacherError(
                f"base_urls: {url} serves another model than the run's: after the same prompts its log-probabilities "
                f"differ by {difference:.3g} nats on average (at most {_REFUSE_NATS} is let through). Serve the model "
                "that model.model names (model.teacher_model, where that is set), or, if another model with the same "
                "tokenizer is meant to teach, set same_model to false"
            )
        level = logging.WARNING if difference > _WARN_NATS else logging.INFO
        _log.log(
            level, "teacher %s: its log-probabilities are the run's to %.2g nats on average", url, difference
        )


def _difference(completions: Sequence[Completion], logprobs: NDArray[np.float32]) -> float:
    """Mean over the servers' most likely tokens, in nats."""
    differences = []
    for completion, ours in zip(completions, logprobs, strict=True):
        assert completion.top_logprobs is not None
        ids, theirs = (side[0] for side in completion.top_logprobs.dense())
        known = np.isfinite(theirs)
        differences.append(np.abs(theirs[known] - ours[ids[known]]))
    return float(np.concatenate(differences).mean())


@torch.no_grad()
def _next_token_logprobs(model: Any, ids: Sequence[int]) -> NDArray[np.float32]:
    """After each of the prefixes: [prefixes, vocabulary]."""
    with reads_prefixes(model):
        given = torch.tensor([ids], device=model.device)
        logits = model(given, use_cache=False, reading=Reading()).logits
    rows = logits[0, [n - 1 for n in _PREFIX_TOKENS]].float().log_softmax(-1)
    return np.asarray(rows.cpu().numpy(), dtype=np.float32)
