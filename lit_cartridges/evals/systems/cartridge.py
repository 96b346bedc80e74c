"""A cartridge in place of the corpus."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.evals.systems.kind import AskedKind, SystemInput
from lit_cartridges.evals.systems.system import System
from lit_cartridges.evals.tasks.task import EvalError

CARTRIDGE = "cartridge"


def of_cartridge(name: str, cartridge: Cartridge, model: PreTrainedModel) -> System:
    """A cartridge, as it stands now: later training does not change the system.

    Raises:
        ValueError: it was made for a model of another shape.
    """
    cartridge.require_fit(model)
    with torch.no_grad():
        keys, values = cartridge.tensors(dtype=model.dtype, device=model.device)
        biases = cartridge.biases(device=model.device)
    return System(name=name, keys=keys, values=values, biases=biases)


class CartridgeKind(AskedKind):
    """See `of_cartridge`."""

    name = CARTRIDGE
    needs_cartridge, needs_corpus = True, False

    def read(self, given: SystemInput) -> System:
        """See `AskedKind.read`."""
        if given.cartridge is None:
            raise EvalError(f"systems: {self.name} needs a cartridge")
        return of_cartridge(self.name, given.cartridge, given.model)
