"""What a byte buys: a cartridge, Attention Matching and LoRA of the same conversations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from lit_cartridges.cartridge import Cartridge, Provenance
from lit_cartridges.conversations.recorded import RecordedConversations
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.systems import no_context
from lit_cartridges.init import AttentionMatching, InitContext
from lit_cartridges.models import load_model
from lit_cartridges.reproductions.asked import Part
from lit_cartridges.reproductions.lora import train_lora
from lit_cartridges.reproductions.reproduction import Cell, Measured, Published
from lit_cartridges.reproductions.variants import Variant, Variants
from lit_cartridges.settings import Count, PositiveFloat, checked

_THIRD = "by a third party's summary; in per cent there, at 2 times compression, the right document given"
CARTRIDGE, MATCHING = "cartridge", "Attention Matching"


class ByBytes(Variants):
    """A cartridge, Attention Matching and LoRA, on one axis of bytes.

    Args:
        ranks: of the LoRA adapters, a row each.
        lora_learning_rate: of Adam.
        lora_steps: of the adapters; a step has about ``tokens_per_batch`` tokens.
        tokens_per_batch: of a step of LoRA's.
    """

    name = "bytes"
    paper = "arXiv 2609.17346 (LoRA, cartridges, Attention Matching); arXiv 2506.06266, prefix and LoRA"
    x_title = "bytes of keys and values, or of the adapter"
    published = (
        Published("ICL", "oracle", 0.736, _THIRD),
        Published(MATCHING, "oracle", 0.734, _THIRD),
        Published(CARTRIDGE, "oracle", 0.706, _THIRD),
        Published("LoRA", "oracle", 0.645, _THIRD),
        Published("prefix over LoRA, 0.6 GB", "chrF on MTOB", 4.5, "arXiv 2506.06266, its text"),
    )
    defaults: ClassVar[dict[str, Any]] = {**Variants.defaults, "num_tokens": (128, 512, 2048)}
    quick: ClassVar[dict[str, Any]] = {
        **Variants.quick,
        "num_tokens": (50, 150),
        "ranks": (1, 4),
        "lora_steps": 120,
        "lora_learning_rate": 3e-3,
        "tokens_per_batch": 1024,
    }
    notes = (
        *Variants.notes,
        "Of LoRA the bytes are the adapter's, and it reads nothing in front of a question. Seeds are the cartridges' alone.",
        "Attention Matching is our closed form, with the queries of the same conversations; nothing is trained.",
    )

    @checked
    def __init__(
        self,
        *,
        ranks: Sequence[Count] = (8, 32, 128),
        lora_learning_rate: PositiveFloat = 1e-3,
        lora_steps: Count = 2000,
        tokens_per_batch: Count = 65_536,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.ranks = ranks
        self.lora: dict[str, Any] = {
            "learning_rate": lora_learning_rate,
            "steps": lora_steps,
            "tokens_per_batch": tokens_per_batch,
        }

    def variants(self) -> Sequence[Variant]:
        return [Variant(CARTRIDGE)]

    def cells(self) -> Sequence[Cell]:
        made = list(super().cells())
        sizes = [
            Cell(
                row=f"{MATCHING}, {size:,} positions",
                column="accuracy",
                options={"matched": size},
                series=MATCHING,
            )
            for size in self.num_tokens
        ]
        ranks = [
            Cell(row=f"LoRA, rank {rank}", column="accuracy", options={"rank": rank}, series="LoRA")
            for rank in self.ranks
        ]
        baselines = [cell for cell in made if "system" in cell.options]
        return [*(cell for cell in made if "system" not in cell.options), *sizes, *ranks, *baselines]

    def measure(self, cell: Cell) -> Measured:
        """See `Reproduction.measure`."""
        if "rank" in cell.options:
            return self._adapted(cell.options["rank"])
        return super().measure(cell)

    def made(self, part: Part, cell: Cell) -> tuple[Path, float]:
        if "matched" not in cell.options:
            return super().made(part, cell)
        place = self.folder / "matched" / str(cell.options["matched"])
        start = time.perf_counter()
        corpus_ids = part.corpus(**part.corpus_options).token_ids(self.renderer.tokenizer).tolist()
        made = [self.renderer.conversation_ids(one.messages)[0].tolist() for one in self._conversations(part)]
        context = InitContext(
            model=self.model,
            context_ids=self.renderer.context_ids(corpus_ids),
            corpus_ids=corpus_ids,
            num_tokens=cell.options["matched"],
            seed=self.seed,
            renderer=self.renderer,
            self_study=lambda count: made[:count],
        )
        tensors = AttentionMatching().tensors(context)
        known = Provenance(base_model=self.model_name, init="AttentionMatching")
        Cartridge(*tensors, num_frozen_tokens=1, provenance=known).save_pretrained(place)
        return place, time.perf_counter() - start

    def _adapted(self, rank: int) -> Measured:
        start = time.perf_counter()
        (part,) = self.parts()
        model = load_model(self.model_name, device=self.device, dtype=self.dtype)
        conversations = self._conversations(part)
        num_bytes = train_lora(model, self.renderer, conversations, rank=rank, seed=self.seed, **self.lora)
        training_s = time.perf_counter() - start
        found = evaluate(
            model,
            self.renderer,
            no_context(),
            part.tasks["accuracy"],
            max_new_tokens=self.max_new_tokens,
            num_questions=self.num_questions,
            **self.asking,
        )
        values = self.values(found, part.tasks["accuracy"].pick(self.num_questions))["values"]
        return Measured(
            values=tuple(values),
            num_kv_tokens=0,
            kv_bytes=num_bytes,
            seconds=time.perf_counter() - start,
            facts={"training_s": training_s, "replies": [reply.reply for reply in found.replies[:8]]},
        )

    def _conversations(self, part: Part) -> list[Any]:
        path, _ = self.recording(part, seed=self.seed)
        groups = RecordedConversations(path, tokenizer=self.renderer.tokenizer).groups
        return [one for group in groups for one in group]
