"""What an init strategy keeps of a context, untrained, as one of the presses of kvpress: a share of its positions in closed form.

A press sees the context and no question. Its axis is the share of the positions that are gone, 1 - p/L, where p and L count the
chat template's opening. Two things differ from kvpress: the question stands at position p here, and at L there, and a
strategy may choose what a press cannot (fitted values, other texts).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from transformers import PreTrainedModel

from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.evals.systems.system import System, TokenIds, seconds_since
from lit_cartridges.init.init_strategy import InitContext, InitStrategy

_REPEAT = "Repeat the text above word for word."


def kept_tokens(context_tokens: int, ratio: float) -> int:
    """Positions that stay of a context where ``ratio`` of them go, as kvpress counts them."""
    return int(context_tokens * (1 - ratio))


def pressed(
    model: PreTrainedModel,
    renderer: ChatRenderer,
    corpus_ids: TokenIds,
    init: InitStrategy,
    *,
    ratio: float,
    seed: int = 0,
    name: str = "",
) -> System:
    """An untrained cartridge of the context, with `kept_tokens` positions.

    Where the strategy asks for conversations, it gets one: a request to repeat the text, and the text (as KVzip has it, arXiv
    2505.23416). So nothing is generated. ``prefill_s`` are the seconds of making it.

    Args:
        ratio: share of the positions that go, 0 to 1.

    Raises:
        ValueError: the strategy cannot give so many positions.
    """
    context_ids = renderer.context_ids(corpus_ids)
    repeated = [*renderer.prompt_ids([user(_REPEAT)]), *map(int, corpus_ids)]

    def conversations(_count: int) -> Sequence[Sequence[int]]:
        return [repeated]

    start = time.perf_counter()
    tensors = init.tensors(
        InitContext(
            model=model,
            context_ids=context_ids,
            corpus_ids=[int(i) for i in corpus_ids],
            num_tokens=kept_tokens(len(context_ids), ratio),
            seed=seed,
            renderer=renderer,
            self_study=conversations,
        )
    )
    dtype, device = model.dtype, model.device
    return System(
        name=name or init.describe(),
        keys=[key.to(device, dtype) for key in tensors.keys],
        values=[value.to(device, dtype) for value in tensors.values],
        biases=tensors.biases,
        prefill_s=seconds_since(start, model),
    )
