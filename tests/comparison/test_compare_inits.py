"""Comparing init strategies: what is trained, what is read of it, what is refused before anything is trained."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os

import pytest
import torch

from lit_cartridges.callbacks import LongContextEval, ThroughputMonitor
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cartridge_cli import CartridgeCLI
from lit_cartridges.cli import main
from lit_cartridges.comparison.plan import Plan
from lit_cartridges.comparison.recipe import Recipe
from lit_cartridges.strategies import training_processes

CORPUS_TOKENS = 240
RECIPE = """
trainer:
  accelerator: cpu
  devices: 1
  max_steps: 4
  log_every_n_steps: 3
  enable_progress_bar: false
  callbacks:
    - class_path: lit_cartridges.callbacks.LongContextEval
      init_args:
        max_new_tokens: 8
        task:
          class_path: lit_cartridges.pocket.task.PocketQuestions
          init_args: {seed: 5, num_tokens: 240, num_questions: 6}
model:
  model: package:lit_cartridges.pocket/model
  num_tokens: 99
data:
  corpus:
    class_path: lit_cartridges.pocket.corpus.WorldCorpus
    init_args: {seed: 5, num_tokens: 240}
  source:
    class_path: SelfStudy
    init_args:
      seed_prompts: lit_cartridges.pocket.SEED_PROMPTS
      min_chunk_tokens: 40
      max_chunk_tokens: 60
      conversations_per_group: 4
      question_max_tokens: 8
      answer_max_tokens: 8
  groups_per_round: 2
  tokens_per_batch: 128
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


class Forked:
    """A training in a forked process, which need not import everything again; looks like a `subprocess.Popen`."""

    def __init__(self, run):
        run.folder.mkdir(parents=True, exist_ok=True)
        training_processes._mark(run, finished=False)
        self.process = multiprocessing.get_context("fork").Process(target=self._train, args=(run,))
        self.process.start()

    @staticmethod
    def _train(run):
        log = os.open(run.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        torch.set_num_threads(1)
        main(run.arguments())

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def terminate(self):
        self.process.terminate()

    def wait(self):
        self.process.join()


@pytest.fixture
def started(monkeypatch):
    """Names of the runs that are started, in their order."""
    names = []
    # Autograd cannot be forked once it has threads, which it has where there is a GPU.
    in_a_process = training_processes._start if torch.cuda.is_available() else Forked

    def start(run):
        names.append(run.name)
        return in_a_process(run)

    monkeypatch.setattr(training_processes, "_start", start)
    return names


def test_the_table_tells_what_the_runs_have_logged(tmp_path, recipe, started, capsys):
    folder = tmp_path / "comparison"
    command = ["compare-inits", f"--config={recipe}", f"--folder={folder}", "--strategies", "RandomVectors"]
    command += ["FirstTokens", "--compressions", "20", "--seeds=2", "--every_n_steps=2", "--processes=1"]
    command += ["--options.RandomVectors.std", "0.5", "--model.learning_rate=0.01"]
    main(command)
    assert started == [f"{s} 20× seed {i}" for s in ("RandomVectors", "FirstTokens") for i in (0, 1)]

    told = json.loads((folder / "comparison.json").read_text())
    positions = told["corpus_tokens"] // 20
    assert CORPUS_TOKENS - 10 < told["corpus_tokens"] <= CORPUS_TOKENS
    for row in told["rows"]:
        logged = []
        for seed in (0, 1):
            with open(
                folder / f"{row['strategy']}_20x_seed{seed}/logs/version_0/metrics.csv", newline=""
            ) as file:
                logged.append([{k: float(v) for k, v in line.items() if v} for line in csv.DictReader(file)])

        def over_seeds(name, step=None, logged=logged):
            found = [[r for r in rows if name in r and step in (None, r["step"])] for rows in logged]
            return [rows[-1][name] for rows in found]

        for step in (0, 2, 4):
            values = over_seeds("eval/cartridge/accuracy", step)
            error = abs(values[0] - values[1]) / 2  # sqrt(((a-m)² + (b-m)²) / 1) / sqrt(2), with m = (a+b)/2
            assert row["accuracy"][str(step)]["mean"] == pytest.approx(sum(values) / 2)
            assert row["accuracy"][str(step)]["standard_error"] == pytest.approx(error)
        for name, logged_name in (
            ("init_s", "init/seconds"),
            ("init_peak_memory_bytes", "init/peak_memory_bytes"),
        ):
            assert row[name]["mean"] == pytest.approx(sum(over_seeds(logged_name)) / 2)
        assert row["init_s"]["mean"] > 0 and row["init_peak_memory_bytes"]["mean"] >= 0
        ends = [row["training_s"][step]["mean"] for step in ("0", "2", "4")]
        # Logged after step 2 (Lightning calls it 1) since 2 divides the steps between measurements, and at the end.
        middle, last = over_seeds("time/training_s", 1), over_seeds("time/training_s")
        assert ends == pytest.approx([0, sum(middle) / 2, sum(last) / 2])
    for run in told["runs"]:
        cartridge = Cartridge.from_pretrained(folder / f"{run['strategy']}_20x_seed{run['seed']}/cartridge")
        assert cartridge.num_tokens == run["num_tokens"] == positions
        assert "--model.learning_rate=0.01" in run["command"]
        assert ("--model.init.std=0.5" in run["command"]) == (run["strategy"] == "RandomVectors")
    # The runs of a seed share their conversations, and those of two seeds differ.
    made = [sorted((folder / f"conversations_corpus_seed{seed}").glob("part-*")) for seed in (0, 1)]
    assert all(made) and made[0][0].read_bytes() != made[1][0].read_bytes()
    assert [run["generating_s"] > 0 for run in told["runs"]] == [True, True, False, False]

    page, shown = (folder / "comparison.md").read_text(), capsys.readouterr().out
    for text in (page, shown):
        assert "accuracy untrained" in text and "after 2 steps" in text and "after 4 steps" in text
    assert page.count("| 20× |") == 2
    plots = (folder / "comparison.html").read_text()
    assert all(f"{strategy} 20×" in plots for strategy in ("RandomVectors", "FirstTokens"))
    last = told["rows"][0]["accuracy"]["4"]
    assert f"{last['mean']:.3f} ± {last['standard_error']:.3f}" in plots

    # Resumption: what has finished is not run again, what has not is, and the figures of the others stay.
    mark = folder / "FirstTokens_20x_seed1/training.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"finished": False}))
    started.clear()
    main(command)
    assert started == ["FirstTokens 20× seed 1"]
    again = json.loads((folder / "comparison.json").read_text())
    assert again["runs"][:3] == told["runs"][:3] and again["rows"][0] == told["rows"][0]
    assert again["rows"][1]["accuracy"] == told["rows"][1]["accuracy"]
    started.clear()
    with pytest.raises(SystemExit):
        main([*command, "--model.learning_rate=0.02"])
    assert "other settings" in capsys.readouterr().err and not started


def test_a_failed_run_ends_the_comparison_with_its_log(tmp_path, recipe, monkeypatch, capsys):
    class Failing:
        returncode = 1

        def __init__(self, run):
            run.folder.mkdir(parents=True)
            (run.folder / "log.txt").write_text("the disk is full")

        def poll(self):
            return 1

    monkeypatch.setattr(training_processes, "_start", Failing)
    folder = tmp_path / "comparison"
    with pytest.raises(SystemExit):
        main(
            [
                "compare-inits",
                f"--config={recipe}",
                f"--folder={folder}",
                "--strategies",
                "RandomTokens",
                "--processes=1",
            ]
        )
    assert "'RandomTokens 10× seed 0' failed:\n  the disk is full" in capsys.readouterr().err
    assert not (folder / "comparison.json").exists()


def plan_of(recipe, folder, **options):
    defaults = {"strategies": ["FirstTokens"], "compressions": [10, 40], "seeds": 3, "steps": 4}
    return Plan(recipe=Recipe(str(recipe)), folder=folder, **({**defaults, "every_n_steps": 2, **options}))


def test_from_cartridge_starts_from_cartridges_of_another_text(tmp_path, recipe):
    plan = plan_of(recipe, tmp_path / "c", strategies=["FirstTokens", "Text", "FromCartridge"])
    plan.write_other_text()
    other = (tmp_path / "c/other_text.txt").read_text().split()
    assert CORPUS_TOKENS - 10 < len(other) <= CORPUS_TOKENS and plan.needs_other_text == [
        "Text",
        "FromCartridge",
    ]
    sources, runs = plan.sources(), plan.runs()
    assert len(sources) == 2 and len(runs) == 3 * 2 * 3
    for source in sources:
        arguments = source.arguments()
        assert f"--data.corpus={tmp_path / 'c/other_text.txt'}" in arguments
        assert "--trainer.callbacks=[]" in arguments  # its questions would be about the corpus
        own = [run for run in runs if f"--model.init.path={source.folder}/cartridge" in run.arguments()]
        assert [(run.strategy, run.num_tokens) for run in own] == [("FromCartridge", source.num_tokens)] * 3
        recording = next(a for a in arguments if a.startswith("--data.source.recording"))
        assert not any(recording in run.arguments() for run in runs)
    texts = [run for run in runs if f"--model.init.path={tmp_path / 'c/other_text.txt'}" in run.arguments()]
    assert {run.strategy for run in texts} == {"Text"} and len(texts) == 6
    given = plan_of(recipe, tmp_path, strategies=["FromCartridge"], options={"FromCartridge": ["path=mine"]})
    assert not given.sources() and all("--model.init.path=mine" in run.arguments() for run in given.runs())


def test_runs_that_share_a_seed_differ_in_what_is_compared_alone(tmp_path, recipe):
    plan = plan_of(recipe, tmp_path, strategies=["FirstTokens", "RandomTokens"], compressions=[10])
    one, other = (set(run.arguments()) for run in plan.runs() if run.seed == 1)
    assert {argument.partition("=")[0] for argument in one ^ other} == {
        "--model.init",
        "--trainer.default_root_dir",
    }
    asked = json.loads(next(a for a in one if a.startswith("--trainer.callbacks=")).partition("=")[2])
    chosen = asked[0]["init_args"]
    assert (chosen["at_start"], chosen["every_n_steps"], chosen["systems"]) == (True, 2, ["cartridge"])
    assert chosen["task"]["init_args"]["num_questions"] == 6
    assert "--trainer.log_every_n_steps=1" in one  # divides the recipe's 3, and the 2 between measurements


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--strategies", "FirstToken"],
            "there is no 'FirstToken'; choose from AttentionMatching, CascadeTokens",
        ),
        (["--strategies", "FirstTokens", "FirstTokens"], "each once"),
        (["--strategies", "FirstTokens", "--options.Text.path", "x"], "--options.Text.path=x: the compared"),
        (
            ["--strategies", "Text", "--options.Text.path=nowhere.txt"],
            "--options.Text.path='nowhere.txt': there is no such file",
        ),
        (
            ["--strategies", "RandomVectors", "--options.RandomVectors.sdt=2"],
            "--options.RandomVectors.sdt: RandomVectors has no such option",
        ),
        (["--options.Text"], "--options.Text: write --options.STRATEGY.KEY VALUE"),
        (["--compressions", "10", "0"], "--compressions=[10.0, 0.0] must be above 0"),
        (["--compressions", "10", "200"], "1 positions has none left to train"),
        (["--seeds=0"], "--seeds=0 must be at least 1"),
        (["--steps=0"], "--steps=0 must be at least 1"),
        (["--other_text=nowhere.txt"], "--other_text='nowhere.txt': there is no such file"),
        (["--trainer.callbacks=[]"], "has 0 LongContextEval under trainer.callbacks"),
        (["--model.nonsense=1"], "nonsense"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_trained(
    options, told, tmp_path, recipe, monkeypatch, capsys
):
    monkeypatch.setattr(training_processes, "_start", lambda run: pytest.fail(f"{run.name} was started"))
    with pytest.raises(SystemExit) as end:
        main(["compare-inits", f"--config={recipe}", f"--folder={tmp_path / 'c'}", *options])
    assert end.value.code == 2
    assert told in capsys.readouterr().err


def test_another_model_needs_another_text(tmp_path, recipe, monkeypatch):
    plan = plan_of(recipe, tmp_path, strategies=["Text"])
    monkeypatch.setattr(Recipe, "model_name", "some/model")
    assert not plan.makes_other_text and plan.needs_other_text == ["Text"]


def test_asking_questions_does_not_count_as_training(recipe):
    """The monitor's clock stops when a batch ends, so it must be told of that before the questions are asked."""
    trainer = CartridgeCLI.run_with([f"--config={recipe}", "--trainer.logger=false"], run=False).trainer
    order = [type(callback) for callback in trainer.callbacks]
    assert order.index(ThroughputMonitor) < order.index(LongContextEval)
