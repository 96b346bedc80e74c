"""RULER's tasks, many questions about one text first: one cartridge serves them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lit_cartridges.errors import SettingError
from lit_cartridges.evals.generators.ruler import ONE_QUESTION, RULER_TASKS, TEXT_TASKS
from lit_cartridges.evals.tasks.ruler import LengthTokens, Ruler, RulerCorpus, RulerTask
from lit_cartridges.reproductions.asked import Part
from lit_cartridges.reproductions.generated import GeneratedTable
from lit_cartridges.reproductions.reproduction import SMOLLM2, Published
from lit_cartridges.settings import Count, PositiveInt, ReadFile, ReadPath, checked

_DENSE = {
    "Qwen3-4B": (0.951, 0.931, 0.910, 0.878, 0.778, 0.660),
    "Qwen3-8B": (0.963, 0.960, 0.918, 0.912, 0.821, 0.774),
    "Llama-3.1-8B": (0.955, 0.938, 0.916, 0.874, 0.847, 0.770),
}


class RulerTable(GeneratedTable):
    """Needles, chains of variables, common words and questions, in made texts of one length.

    Args:
        kinds: tasks, a column each; by default all that have their files.
        contexts: texts of each kind.
        questions_per_text: about each; cwe and fwe have one. 1 is RULER's own way.
        length_tokens: of a text, its longest question and a reply, in tokens of the model.
        haystack: a text file or a folder of them, in which needles are hidden.
        squad: a file in SQuAD's layout, which qa_1 asks from.
        hotpot: a file in HotpotQA's layout, which qa_2 asks from.
    """

    name = "ruler"
    paper = "arXiv 2404.06654, and its many-questions form of arXiv 2506.06266"
    metric = "share of the answers that a reply states (qa: any of them), 0 to 1"
    published = tuple(
        Published(
            f"icl, {model}", f"mean of 13, {length}k", value, "RULER's README; the model's own template"
        )
        for model, values in _DENSE.items()
        for length, value in zip((4, 8, 16, 32, 64, 128), values, strict=True)
    )
    notes: tuple[str, ...] = (
        "The generators and their wordings are ours: rules and lengths are RULER's.",
        "qa_1 asks from the file in SQuAD's layout that is given, qa_2 from one in HotpotQA's.",
        "The text is the system message, the question the user's, and the reply is opened as RULER opens it.",
    )
    defaults: ClassVar[dict[str, Any]] = {
        "model": "Qwen/Qwen3-4B",
        "recipe": "qwen3_4b_text.yaml",
        "num_tokens": (128, 512, 2048),
        "max_new_tokens": 128,
    }
    quick: ClassVar[dict[str, Any]] = {
        "model": SMOLLM2,
        "recipe": "smollm2_text.yaml",
        "num_tokens": (),
        "kinds": ("niah_single_1", "niah_multikey_2", "fwe"),
        "contexts": 2,
        "questions_per_text": 4,
        "length_tokens": 512,
        "max_new_tokens": 12,
    }

    @checked
    def __init__(
        self,
        *,
        kinds: Sequence[RulerTask] = (),
        contexts: Count = 4,
        questions_per_text: PositiveInt = 32,
        length_tokens: LengthTokens = 4096,
        haystack: ReadPath | None = None,
        squad: ReadFile | None = None,
        hotpot: ReadFile | None = None,
        **more: Any,
    ) -> None:
        files = {"haystack": haystack, "squad": squad, "hotpot": hotpot}
        self.files = {name: str(path) for name, path in files.items() if path is not None}
        missing = {kind: needs for kind in RULER_TASKS if (needs := _needs(kind)) and needs not in self.files}
        if lacking := [kind for kind in kinds if kind in missing]:
            raise SettingError(f"needs {missing[lacking[0]]}: see --help", kinds=list(kinds))
        self.columns = list(kinds) or [kind for kind in RULER_TASKS if kind not in missing]
        if missing and not kinds:
            told = ", ".join(f"{kind} ({needs})" for kind, needs in missing.items())
            self.notes = (*self.notes, f"Left out, since their files were not given: {told}.")
        super().__init__(**more)
        self.contexts, self.questions_per_text = contexts, questions_per_text
        self.length_tokens = length_tokens

    def texts(self, column: str) -> list[Part]:
        """See `GeneratedTable.texts`."""
        settings: dict[str, Any] = {
            "kind": column,
            "model": self.model_name,
            "num_tokens": self.length_tokens,
            "seed": self.seed,
            "questions_per_text": 1 if column in ONE_QUESTION else self.questions_per_text,
        }
        if needs := _needs(column):
            settings["haystack" if needs == "haystack" else "documents"] = self.files[needs]
        return [
            Part(f"{column}_{i}", RulerCorpus, own, {column: Ruler(**own)})
            for i in range(self.contexts)
            for own in [settings | {"index": i}]
        ]


def _needs(kind: str) -> str | None:
    """The file without which there is no such task."""
    return {"qa_1": "squad", "qa_2": "hotpot"}.get(kind, "haystack" if kind in TEXT_TASKS else None)
