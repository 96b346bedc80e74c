"""Right or refused (law 11), for every language model of the installed transformers, from a tiny random config.

`make test PYTEST_ARGS="tests/sweep -k NAME"` tries one; `python -m tests.sweep` prints the table of docs/models.md.
"""

from __future__ import annotations

import pytest
import transformers

from tests.sweep.document import documented
from tests.sweep.not_built import NOT_BUILT
from tests.sweep.outcome import outcome_of
from tests.sweep.tiny_lms import names

VERSION, DOCUMENTED = documented()
# The list is that of one release; what is exact or refused holds for any.
same_release = pytest.mark.skipif(
    transformers.__version__ != VERSION, reason=f"docs/models.md is about transformers {VERSION}"
)


@pytest.mark.parametrize("name", names())
def test_it_is_exact_or_refused_by_name(name):
    outcome = outcome_of(name)
    if outcome.outcome == "not built":
        if transformers.__version__ != VERSION and name not in DOCUMENTED:
            pytest.skip(f"new in transformers {transformers.__version__}: {outcome.reason}")
        assert outcome.reason == NOT_BUILT.get(name.partition("+")[0]), outcome.reason
    else:
        assert outcome.outcome in ("exact", "refused"), outcome.reason
    if transformers.__version__ == VERSION:
        assert DOCUMENTED[name] == outcome.outcome, "renew docs/models.md: python -m tests.sweep --write"


@same_release
def test_the_document_lists_every_model_once():
    assert sorted(DOCUMENTED) == sorted(names())
