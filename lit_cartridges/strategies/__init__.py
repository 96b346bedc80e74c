"""DeepSpeed where Lightning's own strategy needs help: frozen weights in shards, the cartridge whole, one checkpoint."""

from lit_cartridges.strategies.deepspeed_strategy import CartridgeDeepSpeedStrategy

__all__ = ["CartridgeDeepSpeedStrategy"]
