"""Tables of variants on the bundled model: their rows, what is trained for them, and seeds taken together."""

from __future__ import annotations

import json

import pytest

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cli import main
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.systems import of_cartridge
from lit_cartridges.init import INITS
from lit_cartridges.reproductions import Result
from lit_cartridges.reproductions.tables import TABLES
from lit_cartridges.reproductions.tables.by_bytes import ByBytes
from lit_cartridges.reproductions.tables.inits import Inits
from lit_cartridges.reproductions.tables.objectives import Objectives
from lit_cartridges.reproductions.tables.seed_prompts import FIVE, ONE, SeedPrompts
from tests.evals.test_tasks import benchmark

QUICK = {**Objectives.quick, "num_questions": 6}


@pytest.mark.parametrize("kind", [Objectives, Inits, SeedPrompts, ByBytes])
def test_the_papers_rows_are_ours(kind):
    table = kind(**kind.quick)
    rows = [cell.row for cell in table.cells()]
    assert len(set(rows)) == len(rows) and rows[-1] == "no_context"
    known = set(rows) | {cell.series for cell in table.cells()} | {"ICL", "prefix over LoRA, 0.6 GB"}
    assert {one.row for one in kind.published} <= known and TABLES[kind.name] is kind


def test_what_differs_is_said_to_fit_and_what_is_shared_is_made_once(tmp_path):
    said: list[tuple[str, ...]] = []

    class Told(Objectives):
        name = "told"

        def command(self, made, name, *options):
            said.append((name, *options))
            return 2.0

    table = Told(**QUICK)
    table.folder, table.device = tmp_path, "cpu"
    (part,) = table.parts()
    cells = [cell for cell in table.cells() if "variant" in cell.options]
    for cell in cells:
        seeded = type(cell)(row=cell.row, column=cell.column, options={**cell.options, "seed": 3})
        place, seconds = table.made(part, seeded)
        assert place.is_relative_to(tmp_path) and seconds == (2.0 if "corpus" in cell.row else 4.0)
    recordings = {options[-1] for name, *options in said if name == "synthesize"}
    assert len(recordings) == 1 and "0_seed3.parquet" in recordings.pop()
    fits = [options for name, *options in said if name == "fit"]
    assert ["--model.objective=TopKDistillation" in fit for fit in fits] == [True, False, False]
    assert [any("=RawCorpus" in option for option in fit) for fit in fits] == [False, False, True]
    assert all("--data.seed=3" in fit and "--trainer.max_steps=120" in fit for fit in fits)
    one, five = SeedPrompts(**SeedPrompts.quick).variants()
    assert (one.name, five.name) == (ONE, FIVE) and one.made_with != five.made_with


def test_seeds_are_averaged_within_a_question(tmp_path):
    class Untrained(Objectives):
        """A cartridge of the corpus's first tokens, more of them for another seed."""

        name = "untrained"

        def made(self, part, cell):
            ids = part.corpus(**part.corpus_options).token_ids(self.renderer.tokenizer)
            length = 700 + 600 * cell.options["seed"]
            keys, values = prefill(self.model, self.renderer.context_ids(ids)[:length])
            place = tmp_path / str(length)
            Cartridge(keys, values, num_frozen_tokens=1).save_pretrained(place)
            return place, 1.0

    table = Untrained(**{**QUICK, "seeds": 2, "num_questions": 12})
    table.folder, table.device = tmp_path, "cpu"
    first = table.cells()[0]
    found = table.measure(first)
    (part,) = table.parts()
    apart = [
        evaluate(
            table.model,
            table.renderer,
            of_cartridge("x", Cartridge.from_pretrained(str(tmp_path / str(length))), table.model),
            part.tasks["accuracy"],
            max_new_tokens=12,
            num_questions=12,
        )
        for length in (700, 1300)
    ]
    assert found.facts["means_of_seeds"] == [one.accuracy for one in apart]
    assert apart[0].accuracy != apart[1].accuracy
    pairs = zip(*([float(reply.right) for reply in one.replies] for one in apart), strict=True)
    assert found.values == tuple((a + b) / 2 for a, b in pairs) and found.facts["training_s"] == 2.0


def test_longhealths_file_takes_the_place_of_the_bundled_text(tmp_path):
    path = tmp_path / "benchmark_v5.json"
    path.write_text(json.dumps(benchmark()))
    table = Inits(**{**Inits.quick, "path": path, "patients": ["patient_01"]})
    (part,) = table.parts()
    assert part.name == "patients" and "patient-records" in table.system_template
    assert table.settings["path"].startswith("benchmark_v5.json sha256:")


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (
            Objectives,
            {"model": "MODEL"},
            "path=None, model=.* must be given; without it the text is one that package:",
        ),
        (Inits, {"inits": ["Nope"]}, r"inits=\['Nope'\].*'Nope' is none; there are .*FirstTokens"),
        (ByBytes, {"ranks": [0]}, "ranks=.* must be at least 1"),
        (Objectives, {"window_tokens": 1}, "window_tokens=1"),
        (SeedPrompts, {"num_conversations": 0}, "num_conversations=0"),
    ],
)
def test_settings_that_cannot_work(kind, given, message, model_folder):
    given = {name: model_folder if value == "MODEL" else value for name, value in given.items()}
    with pytest.raises(SettingError, match=message):
        kind(**{**kind.quick, **given})
    assert {"RandomVectors", "RandomTokens", "FirstTokens"} <= set(INITS)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["objectives", "inits", "seed_prompts", "bytes"])
def test_a_table_is_trained_and_printed(name, tmp_path, capsys):
    more = ["--ranks=[1]", "--lora_steps=3"] if name == "bytes" else []
    few = ["--steps=3", "--num_conversations=32", "--num_questions=8", "--num_tokens=[20]", *more]
    main(["reproduce", name, "--quick", "--device=cpu", f"--folder={tmp_path / 'run'}", *few])
    result = Result.read(tmp_path / "run" / "result.json")
    assert all(one.mean is not None and one.num_questions == 8 for one in result.figures)
    told = capsys.readouterr().out
    assert all(one.row in told for one in (*result.figures, *result.published))
