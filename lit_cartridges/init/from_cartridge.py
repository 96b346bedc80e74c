"""Start from another cartridge, for continued training."""

from __future__ import annotations

import warnings

from transformers import PretrainedConfig

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.errors import SettingError
from lit_cartridges.init.init_strategy import InitContext, InitialTensors, InitStrategy
from lit_cartridges.models.base_weights import other_weights
from lit_cartridges.settings import checked


class FromCartridge(InitStrategy):
    """A saved cartridge of the same model: its first ``num_tokens`` positions, or all of them and further ones.

    To grow it from q to p positions, the second strategy starts p of them, and its last p - q stand behind the old
    ones: there they are at the positions that their keys are rotated for, and the old ones stay exactly as they
    are. After a cartridge that began as `FirstTokens`, `FirstTokens` thus goes on where it ended.

    Args:
        path: its folder, or its repository on the Hub.
        grow: the second strategy; None refuses a cartridge that is too short.
    """

    @checked
    def __init__(self, *, path: str, grow: InitStrategy | None = None) -> None:
        self.path, self.grow = path, grow
        self.reads_corpus = grow is not None and grow.reads_corpus
        self.reads_conversations = grow is not None and grow.reads_conversations

    def check_model(self, config: PretrainedConfig, num_tokens: int) -> None:
        """See `InitStrategy.check_model`."""
        cartridge = Cartridge.from_pretrained(self.path)
        try:
            cartridge.require_made_for(
                config, config._name_or_path or config.model_type, called="the cartridge"
            )
        except SettingError as error:
            raise SettingError(error.why, {"init.path": self.path}) from error
        if self.grow is None:
            self._require_long_enough(cartridge.num_tokens, num_tokens)
        else:
            self.grow.check_model(config, num_tokens)

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
        self._require_long_enough(old.num_tokens, context.num_tokens)
        assert self.grow is not None
        whole = self.grow.tensors(context)
        return old.followed_by(whole.positions(old.num_tokens, context.num_tokens))

    def _require_long_enough(self, held: int, num_tokens: int) -> None:
        if self.grow is None and held < num_tokens:
            raise ValueError(
                f"init.path={self.path!r} holds {held} positions, fewer than num_tokens={num_tokens}; set num_tokens to "
                f"at most {held}, or init.grow to a strategy that starts the others, such as FirstTokens"
            )

    def describe(self) -> str:
        """The class, the place, and the second strategy where there is one."""
        return f"FromCartridge({self.path}{f', {self.grow.describe()}' if self.grow else ''})"
