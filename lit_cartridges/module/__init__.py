"""The LightningModule that trains a cartridge, and what it does in a step."""

from lit_cartridges.module.lit_cartridge import LitCartridge

__all__ = ["LitCartridge"]
