"""Start from tokens without any sense."""

from __future__ import annotations

import torch

from lit_cartridges.init.init_strategy import InitContext
from lit_cartridges.init.token_strategy import TokenStrategy


class RandomTokens(TokenStrategy):
    """Prefill of tokens drawn uniformly, with replacement, from the vocabulary without its special and added tokens.

    A control between `RandomVectors` and `Text`: keys and values that the model itself makes, of text that says
    nothing. The chat template's opening stays in front, so that the sink is a real one (see `TokenStrategy`).
    """

    def body_ids(self, context: InitContext, num_tokens: int) -> list[int]:
        """See `TokenStrategy.body_ids`."""
        tokenizer = context.renderer_for(self).tokenizer
        # mistral-common's has no added tokens, only special ones.
        special = {*tokenizer.all_special_ids, *getattr(tokenizer, "get_added_vocab", dict)().values()}
        # A tokenizer may know more tokens than the model has embeddings, and its ids may have gaps.
        rows = context.model.config.get_text_config().vocab_size
        plain = sorted({i for i in tokenizer.get_vocab().values() if i < rows} - special)
        if not plain:
            raise ValueError("init=RandomTokens: the tokenizer has special tokens only; choose RandomVectors")
        generator = torch.Generator().manual_seed(context.seed)
        drawn = torch.randint(len(plain), (num_tokens,), generator=generator).tolist()
        return [plain[i] for i in drawn]
