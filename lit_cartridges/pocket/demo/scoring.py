"""Asks every system of the demo the held-out questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.asked import reserve_tokens
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.result import EvalResult
from lit_cartridges.evals.systems import (
    ICL,
    NO_CONTEXT,
    TRUNCATED_ICL,
    AskedKind,
    ContextTooLong,
    Sizes,
    System,
    SystemInput,
    chosen,
    of_cartridge,
)
from lit_cartridges.init import FirstTokens, InitContext
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket.demo.plan import DemoText
from lit_cartridges.pocket.demo.training import Trained
from lit_cartridges.report.chunk_scores import score_chunks, spread, write_scores
from lit_cartridges.report.gathering import gather_run
from lit_cartridges.text import text_ids

MODEL = "package:lit_cartridges.pocket/model"
# Positions that the bundled model was trained to read a corpus at; its config allows more than it has learnt.
TRAINED_CONTEXT_TOKENS = 2048
_MAX_NEW_TOKENS = 16
_SCORED_CONVERSATIONS = 300


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        text: whose questions.
        training_s: seconds of training and of making the conversations; None for what is not trained.
    """

    text: str
    result: EvalResult
    training_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"text": self.text, "training_s": self.training_s, **self.result.as_dict(with_replies=False)}


class Scorer:
    """The bundled model, and how it is asked."""

    def __init__(self) -> None:
        self.model, self.tokenizer = load_model(MODEL), load_tokenizer(MODEL)
        self.renderer = ChatRenderer(self.tokenizer)

    def score(self, system: System, text: DemoText, training_s: float | None = None) -> Row:
        """Accuracy and the rest of one system on one text's questions."""
        result = evaluate(self.model, self.renderer, system, text.task(), max_new_tokens=_MAX_NEW_TOKENS)
        return Row(text.name, result, training_s)

    def rows(self, texts: Sequence[DemoText], trained: Sequence[Trained]) -> list[Row]:
        """The whole table: baselines and cartridges by text, then two cartridges composed."""
        rows = []
        for text in texts:
            own = [t for t in trained if t.run.text == text]
            rows += self._baselines(text, first_tokens=max((t.run.num_tokens for t in own), default=0))
            # Cartridges of one text share its conversations, and each would have had to make them.
            generating_s = max((t.generating_s for t in own), default=0.0)
            for one in own:
                shared = 0.0 if "next-token" in one.run.name else generating_s
                system = of_cartridge(one.run.name, self._cartridge(one), self.model)
                rows.append(self.score(system, text, one.training_s + shared))
        return rows + self._composed(trained)

    def score_chunks(self, trained: Sequence[Trained]) -> None:
        """Keep beside each run what its cartridge loses on conversations about each chunk, for the page."""
        for one in trained:
            known = gather_run(one.run.folder, recording=one.run.recording)
            conversations = spread(known.conversations, _SCORED_CONVERSATIONS)
            scores = score_chunks(self.model, self.renderer, self._cartridge(one), conversations)
            write_scores(one.run.folder, scores)

    def _baselines(self, text: DemoText, *, first_tokens: int) -> list[Row]:
        ids = torch.tensor(text_ids(self.tokenizer, text.path.read_text())).numpy()
        reserve = reserve_tokens(self.renderer, text.task().questions(), _MAX_NEW_TOKENS)
        given = SystemInput(
            model=self.model,
            renderer=self.renderer,
            corpus_ids=ids,
            sizes=Sizes(reserve_tokens=reserve, max_context_tokens=TRAINED_CONTEXT_TOKENS),
        )
        [alone] = chosen([NO_CONTEXT], AskedKind)
        rows = [self.score(replace(alone.read(given), name=f"{text.name} no context"), text)]
        context = InitContext(
            model=self.model,
            context_ids=self.renderer.context_ids(ids),
            corpus_ids=ids.tolist(),
            num_tokens=first_tokens,
        )
        keys, values, _ = FirstTokens().tensors(context)
        rows.append(
            self.score(
                System(name=f"{text.name} first {first_tokens} tokens, untrained", keys=keys, values=values),
                text,
            )
        )
        return [*rows, self.score(self._in_context(text, given), text)]

    @staticmethod
    def _in_context(text: DemoText, given: SystemInput) -> System:
        """The whole text where the model has learnt to read so much, and else its first tokens."""
        whole, truncated = chosen([ICL, TRUNCATED_ICL], AskedKind)
        try:
            return replace(whole.read(given), name=f"{text.name} ICL")
        except ContextTooLong:
            return replace(truncated.read(given), name=f"{text.name} truncated ICL")

    def _composed(self, trained: Sequence[Trained]) -> list[Row]:
        pair = [t for t in trained if t.run.name in ("a self-study 10×", "b self-study 10×")]
        if len(pair) < 2:
            return []
        both = of_cartridge(
            "a + b composed", Cartridge.compose([self._cartridge(t) for t in pair]), self.model
        )
        return [self.score(both, t.run.text, sum(t.training_s + t.generating_s for t in pair)) for t in pair]

    @staticmethod
    def _cartridge(trained: Trained) -> Cartridge:
        return Cartridge.from_pretrained(trained.run.folder / "cartridge")
