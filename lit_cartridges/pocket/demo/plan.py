"""What the demo trains: texts and runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from lit_cartridges.pocket.text_task import TextQuestions
from lit_cartridges.pocket.world import World

# Optimizer steps that keep the demo under ten minutes on two cores.
STEPS = {"self_study": 700, "self_study_small": 600, "self_study_long": 900, "next_token": 150}
NUM_QUESTIONS = 200
CURVE_EVERY_STEPS = 200
CURVE_QUESTIONS = 60


@dataclass(frozen=True)
class DemoText:
    """A corpus on disk.

    Args:
        name: "a", "b" or "long"; the folder of its runs.
        path: the text file.
        num_tokens: its length.
    """

    name: str
    path: Path
    num_tokens: int

    def task(self, num_questions: int = NUM_QUESTIONS) -> TextQuestions:
        """Held-out questions about it."""
        return TextQuestions(path=str(self.path), num_questions=num_questions)


@dataclass(frozen=True)
class Run:
    """One training: a recipe and what is set otherwise.

    Args:
        name: as in the table.
        text: its corpus.
        num_tokens: positions of the cartridge.
        recipe: file name in `lit_cartridges.recipes`.
        max_steps: optimizer steps.
        folder: the run's folder.
    """

    name: str
    text: DemoText
    num_tokens: int
    recipe: str
    max_steps: int
    folder: Path

    @property
    def recording(self) -> Path | None:
        """Cartridges of one text share its conversations: the first run that needs a group writes it."""
        if self.recipe.endswith("next_token.yaml"):
            return None
        return self.folder.parent / f"conversations_{self.text.name}"

    def arguments(self) -> list[str]:
        """The command line after ``lit-cartridges``."""
        curve = {
            "class_path": "lit_cartridges.callbacks.LongContextEval",
            "init_args": {
                "every_n_steps": CURVE_EVERY_STEPS,
                "systems": ["cartridge"],
                "at_start": True,
                "max_new_tokens": 16,
                "num_questions": CURVE_QUESTIONS,
                "task": {
                    "class_path": "lit_cartridges.pocket.text_task.TextQuestions",
                    "init_args": {"path": str(self.text.path), "num_questions": NUM_QUESTIONS},
                },
            },
        }
        options = {
            "config": str(files("lit_cartridges.recipes") / self.recipe),
            "trainer.default_root_dir": str(self.folder),
            "trainer.max_steps": str(self.max_steps),
            "trainer.callbacks": json.dumps([curve]),
            "model.num_tokens": str(self.num_tokens),
            "data.corpus": str(self.text.path),
        }
        if self.recording is not None:
            options["data.source.recording"] = str(self.recording)
        return ["fit", *(f"--{name}={value}" for name, value in options.items())]


def make_texts(
    folder: Path, corpus: Path | None, *, seed: int, short_tokens: int, long_tokens: int
) -> list[DemoText]:
    """The texts as files in ``folder``: of two held-out worlds that share no name, and a long one; or the user's."""
    folder.mkdir(parents=True, exist_ok=True)
    if corpus is not None:
        words = " ".join(corpus.read_text(encoding="utf-8").split())
        (folder / "a.txt").write_text(words + "\n", encoding="utf-8")
        return [DemoText("a", folder / "a.txt", len(words.split()))]
    worlds = {
        "a": World(seed, held_out=True, part=(0, 2)).corpus(short_tokens),
        "b": World(seed, held_out=True, part=(1, 2)).corpus(short_tokens),
        "long": World(seed + 1, held_out=True).corpus(long_tokens),
    }
    texts = []
    for name, made in worlds.items():
        path = folder / f"{name}.txt"
        path.write_text(made.text + "\n", encoding="utf-8")
        texts.append(DemoText(name, path, made.num_tokens))
    return texts


def make_runs(texts: list[DemoText], folder: Path, *, share: float = 1.0) -> list[Run]:
    """All trainings, the longest first; ``share`` shortens each of them."""

    def run(name: str, text: DemoText, compression: int, recipe: str, steps: int) -> Run:
        return Run(
            name=name,
            text=text,
            num_tokens=max(2, text.num_tokens // compression),
            recipe=recipe,
            max_steps=max(1, round(steps * share)),
            folder=folder / name.replace(" ", "_").replace("×", "x"),
        )

    by_name = {text.name: text for text in texts}
    runs = []
    if "long" in by_name:
        runs.append(run("long self-study 10×", by_name["long"], 10, "pocket.yaml", STEPS["self_study_long"]))
    runs.append(run("a self-study 10×", by_name["a"], 10, "pocket.yaml", STEPS["self_study"]))
    if "b" in by_name:
        runs.append(run("b self-study 10×", by_name["b"], 10, "pocket.yaml", STEPS["self_study"]))
    small = STEPS["self_study_small"]
    runs += [run(f"a self-study {c}×", by_name["a"], c, "pocket.yaml", small) for c in (20, 40)]
    runs.append(run("a next-token 10×", by_name["a"], 10, "pocket_next_token.yaml", STEPS["next_token"]))
    return runs
