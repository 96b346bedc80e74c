"""What happens around training: checkpoints, composition tests, long-context evaluation, progress."""

from lit_cartridges.callbacks.cartridge_checkpoint import CartridgeCheckpoint
from lit_cartridges.callbacks.composition_test import CompositionTest
from lit_cartridges.callbacks.long_context_eval import LongContextEval
from lit_cartridges.callbacks.prediction_file import PredictionFile
from lit_cartridges.callbacks.router_file import RouterFile
from lit_cartridges.callbacks.step_progress import StepProgress
from lit_cartridges.callbacks.text_samples import TextSamples
from lit_cartridges.callbacks.throughput import ThroughputMonitor

__all__ = [
    "CartridgeCheckpoint",
    "CompositionTest",
    "LongContextEval",
    "PredictionFile",
    "RouterFile",
    "StepProgress",
    "TextSamples",
    "ThroughputMonitor",
]
