"""Where training examples come from: ``data.source``, one class a file, each with its own settings."""

from lit_cartridges.data.sources.raw_corpus import RawCorpus
from lit_cartridges.data.sources.recorded import Recorded
from lit_cartridges.data.sources.self_study import SelfStudy
from lit_cartridges.data.sources.source import Source

__all__ = ["RawCorpus", "Recorded", "SelfStudy", "Source"]
