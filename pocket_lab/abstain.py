"""Teaching the bundled model to answer "not known" where nothing that it reads states the fact.

`python -m pocket_lab.pretrain fit --config recipes/pocket_abstaining.yaml`

The bundled model makes a value up. A copy of it goes on from its weights, over the rows of its first training, in which some
turns now ask for what the text does not state, and over chats without a text, whose message brings a short text of its own, or
asks for what nobody has told it, or is a seed prompt.
"""

from __future__ import annotations

import random
from typing import Any

from transformers import LlamaForCausalLM

from lit_cartridges.pocket import model_path
from lit_cartridges.pocket.language import SEED_PROMPTS
from lit_cartridges.pocket.pocket_text import PocketText
from lit_cartridges.pocket.questions import KINDS, ask
from lit_cartridges.pocket.world import World
from pocket_lab.pretrain import PocketPretraining
from pocket_lab.pretrain_data import Batch, PocketPretrainData, stack
from pocket_lab.rows import ASKED, Row, answer, conversation_row, encode, not_known

_NOTE_TOKENS = (16, 80)  # of a text in the message itself
_ROW_TOKENS = 128


class PocketAbstention(PocketPretraining):
    """`PocketPretraining` that goes on from the bundled model's weights."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        bundled = LlamaForCausalLM.from_pretrained(model_path(), trust_remote_code=False)
        self.model.load_state_dict(bundled.state_dict())


class PocketAbstentionData(PocketPretrainData):
    """`PocketPretrainData` at the end of its curriculum, with what the docstring above names.

    Args:
        without_text: share of batches without a text.
        unknown: share of turns that ask for what is not stated.
        options: of `PocketPretrainData`.
    """

    def __init__(self, without_text: float = 0.3, unknown: float = 0.25, **options: Any):
        super().__init__(**options)
        self.without_text, self.unknown = without_text, unknown
        now = self.curriculum
        now.num_pairs, now.pool, now.num_tokens = now.max_pairs, now.max_pool, now.max_tokens

    def batch(self, index: int) -> Batch:
        """See `PocketPretrainData.batch`."""
        rng = random.Random(f"{self.seed} {index} without text")
        if rng.random() >= self.without_text:
            return super().batch(index)
        return stack([self._chat(rng) for _ in range(max(1, self.tokens_per_batch // _ROW_TOKENS))])

    def _conversation(self, corpus: PocketText, width: int, rng: random.Random) -> Row:
        return conversation_row(
            corpus, width, rng, self.seeded, self.gap, self.max_positions, unknown=self.unknown
        )

    def _chat(self, rng: random.Random) -> Row:
        """One turn without a text in front."""
        row, kind = Row(), rng.choice(KINDS)
        told = World(rng.getrandbits(48)).corpus(rng.randint(*_NOTE_TOKENS))
        row.say(encode("<bos>"))
        if (drawn := rng.random()) < 0.2:
            row.say(encode(f"<user> {rng.choice(SEED_PROMPTS[kind])} <assistant>"))
            anybody = World(rng.getrandbits(48)).corpus(200)
            row.say(encode(f"{ask(kind, anybody, rng).prompt} <end>"), ASKED)
        elif drawn < 0.5 or not told.facts:
            answer(row, not_known(None, rng))
        else:
            unknown = rng.random() < self.unknown
            answer(row, not_known(told, rng) if unknown else ask(kind, told, rng), before=f"{told.text} ")
        return row
