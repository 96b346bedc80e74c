"""Start from another cartridge, for continued training."""

from __future__ import annotations

import warnings

from lit_cartridges.base_weights import other_weights
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.init.init_strategy import InitContext, InitialTensors, InitStrategy


class FromCartridge(InitStrategy):
    """A saved cartridge of the same model: its first ``num_tokens`` positions, or all of them and further ones.

    To grow it from q to p positions, the second strategy starts p of them, and its last p - q stand behind the old
    ones: there they are at the positions that their keys are rotated for, and the old ones stay exactly as they
    are. After a cartridge that began as `FirstTokens`, `FirstTokens` thus goes on where it ended.

    Args:
        path: its folder, or its repository on the Hub.
        grow: the second strategy; None refuses a cartridge that is too short.
    """

    def __init__(self, *, path: str, grow: InitStrategy | None = None) -> None:
        self.path, self.grow = path, grow

    def tensors(self, context: InitContext) -> InitialTensors:
        """See `InitStrategy.tensors`."""
        cartridge = Cartridge.from_pretrained(self.path)
        cartridge.require_fit(context.model)
        if difference := other_weights(cartridge, context.model):
            warnings.warn(f"init.path={self.path!r}: {difference}", stacklevel=2)
        cartridge.requires_grad_(False).to(context.model.device)
        old = InitialTensors(*cartridge.tensors(), cartridge.biases())
        if old.num_tokens >= context.num_tokens:
            return old.positions(0, context.num_tokens)
        if self.grow is None:
            raise ValueError(
                f"init.path={self.path!r} holds {old.num_tokens} positions, fewer than num_tokens="
                f"{context.num_tokens}; set num_tokens to at most {old.num_tokens}, or init.grow to a strategy that "
                "starts the others, such as FirstTokens"
            )
        whole = self.grow.tensors(context)
        return old.followed_by(whole.positions(old.num_tokens, context.num_tokens))

    def describe(self) -> str:
        """The class, the place, and the second strategy where there is one."""
        return f"FromCartridge({self.path}{f', {self.grow.describe()}' if self.grow else ''})"
