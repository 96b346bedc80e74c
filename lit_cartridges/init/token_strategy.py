"""Start from the keys and values of some tokens; a subclass says of which."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import cycle, islice

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.init.init_strategy import InitContext, InitialTensors, InitStrategy


class TokenStrategy(InitStrategy):
    """Prefill of the chat template's opening and of the tokens that a subclass chooses to stand behind it.

    The opening comes first whatever follows, since attention rests on a model's first tokens (the sink), and since
    the user's message will continue the chat that it opens. It counts towards ``num_tokens``, which is a deviation
    from the papers of all strategies that derive from this one.
    """

    @abstractmethod
    def body_ids(self, context: InitContext, num_tokens: int) -> Sequence[int]:
        """Exactly ``num_tokens`` token ids to stand behind the opening.

        Raises:
            ValueError: the strategy cannot give so many; the message says what would work.
        """

    def tensors(self, context: InitContext) -> InitialTensors:
        """See `InitStrategy.tensors`."""
        opening = [int(i) for i in context.opening_ids]
        room = context.num_tokens - len(opening)
        if room < 1:
            raise ValueError(
                f"num_tokens={context.num_tokens} leaves no place for init={self.describe()} behind the chat "
                f"template's opening of {len(opening)} tokens; choose at least {len(opening) + 1}"
            )
        body = [int(i) for i in self.body_ids(context, room)]
        if len(body) != room:
            raise RuntimeError(f"{type(self).__name__}.body_ids gave {len(body)} token ids instead of {room}")
        return InitialTensors(*prefill(context.model, opening + body))


def repeated(ids: Sequence[int], num_tokens: int, *, of: str) -> list[int]:
    """The first ``num_tokens`` of ``ids``, which are read again from their start where they are too few.

    Raises:
        ValueError: there are none; the message says ``of`` what.
    """
    if not len(ids):
        raise ValueError(f"{of} comes to no tokens, so no cartridge starts from it; give some text")
    return [int(i) for i in islice(cycle(ids), num_tokens)]
