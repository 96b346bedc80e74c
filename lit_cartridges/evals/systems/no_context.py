"""The model alone."""

from __future__ import annotations

from lit_cartridges.evals.systems.kind import AskedKind, SystemInput
from lit_cartridges.evals.systems.system import System, require_room

NO_CONTEXT = "no_context"


def no_context(name: str = NO_CONTEXT) -> System:
    """The model alone, with a chat that has no system message."""
    return System(name=name, uses_context_prompt=False)


class NoContext(AskedKind):
    """See `no_context`."""

    name = NO_CONTEXT
    needs_corpus = False

    def read(self, given: SystemInput) -> System:
        """See `AskedKind.read`."""
        require_room(given.model.config, self.name, 0, given.sizes.reserve_tokens)
        return no_context()
