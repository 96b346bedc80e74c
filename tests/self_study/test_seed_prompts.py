from __future__ import annotations

import pytest

from lit_cartridges.self_study import (
    SEED_PROMPTS,
    SeedPromptError,
    register_seed_prompts,
    resolve_seed_prompts,
)


def test_the_five_kinds_have_several_wordings():
    assert list(SEED_PROMPTS) == ["structuring", "summarization", "question", "use_case", "creative"]
    assert all(len(set(wordings)) >= 3 for wordings in SEED_PROMPTS.values())


def test_resolve():
    assert resolve_seed_prompts() == SEED_PROMPTS
    assert resolve_seed_prompts({"a": ("x", "y")}) == {"a": ["x", "y"]}
    assert resolve_seed_prompts("lit_cartridges.self_study.seed_prompts.SEED_PROMPTS") == SEED_PROMPTS
    register_seed_prompts("mine", {"a": ["x"]})
    assert resolve_seed_prompts("mine") == {"a": ["x"]}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("unknown", "seed_prompts='unknown' is not registered; take one of .*'paper'"),
        ("no_such_package.X", "cannot be imported"),
        ("lit_cartridges.self_study.NOTHING", "cannot be imported"),
        ("lit_cartridges.self_study.TokenChunker", "must map each kind"),
        ({}, "must map each kind"),
        ({"a": []}, "seed_prompts=a mapping: its 'a' .*at least one wording"),
        ({"a": "text"}, "its 'a' must be"),
        ({"a": [" "]}, "its 'a' must be"),
    ],
)
def test_bad_seed_prompts(source, message):
    with pytest.raises(SeedPromptError, match=message):
        resolve_seed_prompts(source)
