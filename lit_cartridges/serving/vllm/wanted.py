"""What vLLM's scheduler is told, and what it tells the workers: which positions come from a cartridge, and into which blocks.

An exception in the scheduler ends the engine with all requests, so nothing here reads a file or can fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAME, TOKENS = "lit_cartridge", "lit_cartridge_tokens"


@dataclass(frozen=True)
class Load:
    """Positions ``start`` to ``stop`` of the cartridge ``name`` for a request's blocks, one list for each group of layers."""

    name: str
    start: int
    stop: int
    block_ids: tuple[tuple[int, ...], ...]


def params(name: str, num_tokens: int) -> dict[str, Any]:
    """A request's kv_transfer_params: its first ``num_tokens`` tokens stand for the cartridge."""
    return {NAME: name, TOKENS: num_tokens}


class Wanted:
    """The loads of one step of the scheduler."""

    def __init__(self) -> None:
        self._loads: list[Load] = []

    def matched(self, given: Mapping[str, Any] | None, *, prompt_tokens: int, computed: int) -> int:
        """Positions beyond the ``computed`` first ones that the request's cartridge holds."""
        return max(0, _cartridge_tokens(given, prompt_tokens) - computed)

    def allocated(
        self,
        given: Mapping[str, Any] | None,
        *,
        prompt_tokens: int,
        external: int,
        block_ids: Sequence[Sequence[int]],
    ) -> None:
        """Note that the request has got these blocks, and waits for the last ``external`` positions of its cartridge."""
        if given and external > 0:
            stop = _cartridge_tokens(given, prompt_tokens)
            blocks = tuple(tuple(group) for group in block_ids)
            self._loads.append(Load(str(given[NAME]), stop - external, stop, blocks))

    def take(self) -> list[Load]:
        """All loads since the last call."""
        loads, self._loads = self._loads, []
        return loads


def _cartridge_tokens(given: Mapping[str, Any] | None, prompt_tokens: int) -> int:
    tokens = given.get(TOKENS) if given and NAME in given else None
    # At least one token is left to compute, which the scheduler asserts.
    return min(tokens, prompt_tokens - 1) if isinstance(tokens, int) else 0
