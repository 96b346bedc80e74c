"""How many kinds of requests self-study makes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lit_cartridges.pocket import SEED_PROMPTS as POCKET_PROMPTS
from lit_cartridges.reproductions.reproduction import Published
from lit_cartridges.reproductions.variants import Variant, Variants
from lit_cartridges.self_study.seed_prompts import SEED_PROMPTS

_LONGHEALTH = "arXiv 2506.06266, its text; Llama-3.2-3B-Instruct; in per cent there"
_MTOB = "arXiv 2506.06266, its text; MTOB, Llama-3.1-8B-Instruct"
_ONE = (
    "Write one message with which somebody would begin a conversation about the text above: a question about it or a request "
    "concerning it. Reply with the message itself and nothing around it."
)
ONE, FIVE = "one seed prompt", "five kinds of seed prompts"


class SeedPrompts(Variants):
    """Self-study from one generic seed prompt, and from the paper's five kinds."""

    name = "seed_prompts"
    paper = "arXiv 2506.06266, ablation of the seed prompts"
    published = (
        Published(ONE, "accuracy", 0.436, _LONGHEALTH),
        Published(FIVE, "accuracy", 0.484, _LONGHEALTH),
        Published(ONE, "chrF on MTOB", 24.1, _MTOB),
        Published(FIVE, "chrF on MTOB", 32.0, _MTOB),
    )
    notes = (
        *Variants.notes,
        "The wordings are ours; the bundled model knows no generic request, its one prompt asks for a question.",
    )

    def variants(self) -> Sequence[Variant]:
        one = {"question": POCKET_PROMPTS["question"][:1]} if self.is_pocket else {"generic": [_ONE]}
        five = POCKET_PROMPTS if self.is_pocket else SEED_PROMPTS
        return [
            Variant(name, made_with=(f"--data.source.seed_prompts={json.dumps(prompts)}",))
            for name, prompts in ((ONE, one), (FIVE, five))
        ]
