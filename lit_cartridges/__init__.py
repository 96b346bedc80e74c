"""Train a small KV cache, a cartridge, that a frozen language model reads in place of a long corpus."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lit_cartridges.moved import install

if TYPE_CHECKING:
    from lit_cartridges.cartridge import Cartridge
    from lit_cartridges.cascade import CascadingCache
    from lit_cartridges.data import SelfStudyDataModule
    from lit_cartridges.generation import generate
    from lit_cartridges.module import LitCartridge

__all__ = ["Cartridge", "CascadingCache", "LitCartridge", "SelfStudyDataModule", "generate"]
__version__ = "0.1.0"
_HOMES = {
    "Cartridge": "cartridge",
    "CascadingCache": "cascade",
    "LitCartridge": "module",
    "SelfStudyDataModule": "data",
    "generate": "generation",
}


def __getattr__(name: str) -> Any:
    """PEP 562: a name is imported when it is first used, so that the command's ``--version`` loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        from lit_cartridges.optional import MissingExtraError, hint

        if (mend := hint(error.name)) is None:
            raise
        raise MissingExtraError(f"{name} needs {error.name}, which is not installed; {mend}") from error


install()
