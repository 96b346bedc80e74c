"""Lets processes that share one model's weights run different numbers of forward calls.

A forward call of a sharded model gathers weights, so all processes must make it together. They do while they train;
but generating on the fly, one meets a longer chunk, another ends its replies early, a third finds its conversations
recorded and makes no call at all. Inside `LockStep.section` every forward call is therefore announced: all processes
agree on which model runs next, those that have nothing to run in it run it over one token, and the section ends for
all of them once nobody wants to run anything. It costs one exchange of an integer per forward call.

This replaces transformers' ``synced_gpus``, which keeps one call of ``generate`` in step and not several of different
kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from lit_cartridges.attention.model_calls import attends_to_calls
from lit_cartridges.attention.reading import Reading

_FAILED = -1


class LockStep:
    """Sections of unequal work over the same models.

    Args:
        models: the causal LMs with sharded weights, in the same order on every process. Their ``base_model`` is what
            runs together; the output head must be whole.
        device: where the backend of torch.distributed can reach an integer.
    """

    def __init__(self, models: Sequence[Any], *, device: torch.device) -> None:
        self.models, self.device = tuple(models), device
        self._nobody = len(self.models)
        self._idling = False

    @contextmanager
    def section(self) -> Iterator[None]:
        """All processes enter it together, run what they like under no_grad, and leave it together.

        Raises:
            RuntimeError: another process left it by an error.
        """
        handles = [
            model.base_model.register_forward_pre_hook(partial(self._announce, index))
            for index, model in enumerate(self.models)
        ]
        try:
            yield
            self._until(self._nobody)
        except _AnotherFailed:
            raise RuntimeError("another process failed while this one was generating; see its log") from None
        except Exception:
            self._agree(_FAILED)
            raise
        finally:
            for handle in handles:
                handle.remove()

    def _announce(self, index: int, module: nn.Module, args: Any) -> None:
        if not self._idling:
            self._until(index)

    def _until(self, wanted: int) -> None:
        """Run along with the others until it is the turn of model ``wanted``."""
        while (turn := self._agree(wanted)) != wanted:
            if turn == _FAILED:
                raise _AnotherFailed
            self._idle(turn)

    def _agree(self, wanted: int) -> int:
        """The first of the models that anybody wants to run."""
        turn = torch.tensor(wanted, device=self.device)
        torch.distributed.all_reduce(turn, op=torch.distributed.ReduceOp.MIN)
        return int(turn)

    @torch.no_grad()
    def _idle(self, index: int) -> None:
        model = self.models[index]
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        self._idling = True
        try:
            with attends_to_calls(model):
                model.base_model(token, position_ids=token, use_cache=False, reading=Reading())
        finally:
            self._idling = False


class _AnotherFailed(Exception):
    """Raised through a model's forward call, out of the section."""
