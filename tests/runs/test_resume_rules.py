"""The declaration of what becomes of each setting is complete, and the documentation's table is made from it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from lit_cartridges.cartridge_cli import CartridgeCLI
from lit_cartridges.data import SelfStudyDataModule
from lit_cartridges.module import LitCartridge
from lit_cartridges.runs.moved_settings import MOVED, renamed
from lit_cartridges.runs.resume_rules import MAY_CHANGE, NO_EFFECT, REFUSED, RULES, rule_of, table
from tests.tiny_run import new_data, new_module

PAGE = Path(__file__).parents[2] / "docs" / "resume.md"


@pytest.fixture(scope="module")
def settings():
    """Every setting of ``fit``, as its parser knows them."""
    cli = CartridgeCLI.run_with(["--config=pocket.yaml"], run=False)
    cli.setup_parser(True, {"parser_mode": "omegaconf"}, {})
    defaults = cli._subcommand_parsers["fit"].get_defaults()
    names = [re.sub(r"\.(init_args|class_path)", "", name) for name in defaults.keys()]
    return [name for name in names if name not in ("trainer", "model", "data", "checkpoint")]


def test_every_setting_of_fit_has_a_rule(settings):
    declared = {rule.name for rule in RULES}
    missing = [name for name in settings if name not in declared and not name.startswith("data.source.")]
    assert not missing, (
        f"{', '.join(missing)}: say in RULES of lit_cartridges/runs/resume_rules.py what becomes of a run that goes on with "
        "another value (REFUSED, MAY_CHANGE or NO_EFFECT; recorded=False for a secret), and put what "
        "`python -m lit_cartridges.runs.resume_rules` prints into docs/resume.md"
    )


def test_every_rule_is_of_a_setting(settings):
    """Or of an option of a source; versions of Lightning differ in what the trainer takes."""
    kinds = ("trainer.", "data.source.")
    gone = [r.name for r in RULES if r.name not in settings and not r.name.startswith(kinds)]
    assert not gone, (
        f"{', '.join(gone)}: no setting of fit; take it out of lit_cartridges/runs/resume_rules.py"
    )


def test_no_setting_has_two_rules():
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))


def test_the_table_of_the_documentation_is_that_of_the_code():
    assert table() in PAGE.read_text(), (
        "put what `python -m lit_cartridges.runs.resume_rules` prints into docs/resume.md"
    )


@pytest.mark.parametrize("kind", [LitCartridge, SelfStudyDataModule])
def test_the_module_and_the_data_tell_every_setting_of_theirs(kind, model_folder, corpus):
    made = new_module(model_folder) if kind is LitCartridge else new_data(corpus)
    prefix = "model" if kind is LitCartridge else "data"
    told = made.run_settings()
    missing = [
        name
        for name in inspect.signature(kind.__init__).parameters
        if name != "self" and f"{prefix}.{name}" not in told and rule_of(f"{prefix}.{name}").recorded
    ]
    assert not missing, (
        f"{', '.join(missing)}: {kind.__name__}.run_settings does not tell it, so a change on resumption would not be seen; "
        "keep it under an attribute of its own name, or give its value there"
    )


def test_a_rule_holds_for_what_lies_under_it():
    assert rule_of("model.init.std") is rule_of("model.init")
    assert rule_of("data.source.teacher.cascade").verdict is REFUSED
    assert rule_of("data.source.teacher.max_rows").verdict is MAY_CHANGE
    assert rule_of("model.nobody_declared_this").verdict is REFUSED


def test_other_text_matters_where_it_has_a_share():
    rule = rule_of("data.source.off_corpus")
    assert rule.verdict_for({}, {"data.source.off_corpus_share": 0.0}) is NO_EFFECT
    assert rule.verdict_for({}, {"data.source.off_corpus_share": 0.1}) is REFUSED


@pytest.mark.parametrize(
    ("accumulate", "devices", "nodes", "verdict"),
    [(8, 1, 1, MAY_CHANGE), (2, 2, 2, MAY_CHANGE), (4, 1, 1, REFUSED), (4, 4, 1, REFUSED)],
)
def test_a_step_keeps_its_micro_batches(accumulate, devices, nodes, verdict):
    names = ("accumulate_grad_batches", "devices", "num_nodes")
    then, now = (
        {f"trainer.{name}": value for name, value in zip(names, values, strict=True)}
        for values in ((4, 2, 1), (accumulate, devices, nodes))
    )
    assert rule_of("trainer.accumulate_grad_batches").verdict_for(then, now) is verdict


@pytest.mark.parametrize(
    ("used", "source", "kept", "left_out"),
    [
        ({}, "SelfStudy", "data.source.top_k", "data.source.window_tokens"),
        ({"data.recorded": {"is": "1", "as": "x"}}, "Recorded", "data.source.path", "data.source.min_mass"),
        ({"data.raw_corpus": True}, "RawCorpus", "data.source.window_tokens", "data.source.teacher.max_rows"),
    ],
)
def test_a_checkpoints_settings_are_read_by_their_names_of_now(used, source, kept, left_out):
    old = {"data.uses": 2, "data.recorded": None, "data.raw_corpus": False, "data.top_k": 20} | used
    old |= {"data.min_mass": 0.9, "data.window_tokens": 64, "data.teacher.max_rows": 4}
    now = renamed(old)
    assert (now["data.uses"], now["data.source"]) == (2, source)
    assert kept in now and left_out not in now
    assert not now.keys() & MOVED.keys()
    assert renamed(now) == now
