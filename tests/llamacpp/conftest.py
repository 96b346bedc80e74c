"""The tier's marker."""

from tests.distributed.conftest import (
    figure,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_terminal_summary,
)

# The tiers are declared there, and pytest reads that file only where it looks for tests.
__all__ = ["figure", "pytest_collection_modifyitems", "pytest_configure", "pytest_terminal_summary"]
