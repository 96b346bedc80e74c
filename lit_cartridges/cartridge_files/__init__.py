"""A cartridge on disk: tensors, description, model card."""

from lit_cartridges.cartridge_files.folder import CARD, DESCRIPTION, TENSORS, CartridgeFileError

__all__ = ["CARD", "DESCRIPTION", "TENSORS", "CartridgeFileError"]
