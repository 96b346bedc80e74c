"""The tier's marker."""

from tests.distributed.conftest import pytest_collection_modifyitems, pytest_configure

# The tiers are declared there, and pytest reads that file only where it looks for tests.
__all__ = ["pytest_collection_modifyitems", "pytest_configure"]
