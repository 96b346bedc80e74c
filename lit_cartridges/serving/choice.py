"""The next token of every row as a server's clients ask for it: from the likeliest ones alone, and with log-probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_cartridges.teachers.row import Row
from lit_cartridges.teachers.row_table import RowTable
from lit_cartridges.teachers.token_choice import TokenChoice


@dataclass(frozen=True)
class Chosen:
    """Log-probabilities at temperature 1 of a token that was chosen, and of the likeliest ones with their ids."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class ScoreChanges:
    """What is added to the scores of tokens before one is chosen; log-probabilities are told without it.

    Args:
        presence, frequency: taken from a token's score once it has been said in the reply, and for each time that it has.
        added: to a token's score, by its id.
    """

    presence: float = 0.0
    frequency: float = 0.0
    added: Mapping[int, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.presence or self.frequency or self.added)

    def of(self, reply: Sequence[int]) -> dict[int, float]:
        """By token, behind this reply."""
        said = Counter(reply) if self.presence or self.frequency else Counter[int]()
        changes = {token: -self.presence - self.frequency * times for token, times in said.items()}
        return changes | {token: value + changes.get(token, 0.0) for token, value in self.added.items()}


@dataclass(eq=False, kw_only=True)
class ServedRow(Row):
    """A row of somebody's.

    Args:
        changes: of its scores.
        owner: whose it is, and ``index`` which of the owner's.
        top_p: sampled from the likeliest tokens that have this probability together.
        logprobs: tokens beside the chosen one to be noted; None for none at all.
        noted: one for each token.
        broken: its scores were no numbers.
    """

    owner: Any
    index: int
    changes: ScoreChanges = field(default_factory=ScoreChanges)
    top_p: float = 1.0
    logprobs: int | None = None
    noted: list[Chosen] = field(default_factory=list)
    broken: bool = False


class ServedChoice(TokenChoice):
    """Chooses for `ServedRow`s."""

    def __init__(self, rows: Sequence[Row], device: torch.device, *, picks: bool) -> None:
        super().__init__(rows, device, picks=picks)
        drawn = [row for row in rows if row.temperature > 0]
        self._temperatures = torch.tensor(
            [[row.temperature] for row in drawn], dtype=torch.float32, device=device
        )
        shares = [row.top_p for row in drawn if isinstance(row, ServedRow)]
        self._shares = (
            torch.tensor([shares], dtype=torch.float32, device=device).T
            if any(share < 1 for share in shares)
            else None
        )
        self._noting = [
            (at, row)
            for at, row in enumerate(rows)
            if isinstance(row, ServedRow) and row.logprobs is not None
        ]

    def __call__(self, scores: Tensor, table: RowTable) -> Tensor:
        """See `TokenChoice`."""
        scores = self._within_limits(scores.clone()) if self.limited else scores
        chosen = super().__call__(self._changed(scores), table)
        for row, nan in zip(self.rows, scores.amax(-1).isnan().tolist(), strict=True):
            if nan and isinstance(row, ServedRow):
                row.broken = True
        if self._noting:
            self._note(scores, chosen)
        return chosen

    def _changed(self, scores: Tensor) -> Tensor:
        changing = [
            (at, changes)
            for at, row in enumerate(self.rows)
            if isinstance(row, ServedRow) and (changes := row.changes.of(row.reply))
        ]
        if changing:
            scores = scores.clone()
        for at, changes in changing:
            ids, amounts = (
                torch.tensor([*side], device=scores.device) for side in (changes, changes.values())
            )
            scores[at, ids] += amounts.to(scores.dtype)
        return scores

    def _drawn(
        self, scores: Tensor, table: RowTable, at: Tensor | None, likeliest: Tensor | None = None
    ) -> Tensor:
        scores = scores if self._shares is None else self._likeliest(scores, self._shares)
        return super()._drawn(scores, table, at, likeliest)

    def _likeliest(self, scores: Tensor, shares: Tensor) -> Tensor:
        """Scores without the tokens beyond the likeliest that reach each row's share (nucleus sampling, arXiv 1904.09751)."""
        order = scores.argsort(dim=-1, descending=True)
        likely = (scores / self._temperatures).softmax(-1).gather(-1, order)
        beyond = likely.cumsum(-1) - likely >= shares
        beyond[:, 0] = False
        beyond &= shares < 1  # rounding must not take tokens from rows that draw from all
        return scores.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)

    def _note(self, scores: Tensor, chosen: Tensor) -> None:
        at = torch.tensor([at for at, _ in self._noting], device=scores.device)
        logprobs = scores[at].log_softmax(-1)
        own = logprobs.gather(-1, chosen[at][:, None])[:, 0].tolist()
        most = max(1, *(row.logprobs or 0 for _, row in self._noting))
        top = logprobs.topk(min(most, logprobs.shape[-1]), dim=-1)
        for (_, row), mine, ids, values in zip(
            self._noting, own, top.indices.tolist(), top.values.tolist(), strict=True
        ):
            row.noted.append(Chosen(mine, tuple(zip(ids[: row.logprobs], values, strict=False))))
