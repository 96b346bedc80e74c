"""Long texts that are made, with questions about them whose answers are known: one kind of text a file.

They know no model: a tokenizer's count of tokens says how long a text may be (`fitted`). Every choice is the seed's.
"""

from lit_cartridges.evals.generators.generator import Asked, Generator, Made, fitted
from lit_cartridges.evals.generators.ruler import RULER_TASKS, ruler_generator
from lit_cartridges.evals.generators.similar_requests import SimilarRequests

__all__ = ["Asked", "Generator", "Made", "RULER_TASKS", "SimilarRequests", "fitted", "ruler_generator"]
