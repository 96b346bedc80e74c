"""LongHealth, as Cartridges and as Attention Matching ask it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from lit_cartridges.evals.tasks.longhealth import LongHealth, LongHealthCorpus
from lit_cartridges.reproductions.asked import AskedReproduction, Part
from lit_cartridges.reproductions.reproduction import SMOLLM2, Published
from lit_cartridges.settings import ReadFile, checked

SHA256 = "82d34d9da47ab279d7aa89a6bdf298c0ac79f1e506e1dd0a3ea69a1ad5e2cb45"
_TEXT = "arXiv 2506.06266, its text; Llama-3.2-3B-Instruct"
MATCHING_NOTE = (
    "Attention Matching shows the article in a user turn, words the request by the model and draws as the model's own settings "
    "say; here the corpus is the system message, all are asked as Llama is, and temperature says how to draw."
)


class LongHealthTable(AskedReproduction):
    """Questions about the records of ten patients.

    Args:
        path: benchmark_v5.json of github.com/kbressem/LongHealth, which you bring. Another version of the file is read as well;
            the table then says so.
        patients: whose records and questions; None for all twenty.
        style: how questions are asked and graded; "attention_matching" is arXiv 2602.16284's.
    """

    name = "longhealth"
    paper = "arXiv 2506.06266, LongHealth (arXiv 2401.14490)"
    metric = "share of right replies, samples averaged within a question"
    published = tuple(
        Published(row, "accuracy", value, _TEXT)
        for row, value in (
            ("self-study, one seed prompt", 0.436),
            ("self-study, five seed prompts", 0.484),
            ("init from random vectors", 0.299),
            ("init from random tokens", 0.513),
            ("init from the first tokens", 0.553),
        )
    )
    notes: tuple[str, ...] = (
        "A reply without answer tags counts as the first option, as in the paper.",
        MATCHING_NOTE,
    )
    defaults: ClassVar[dict[str, Any]] = {
        "model": "meta-llama/Llama-3.2-3B-Instruct",
        "recipe": "llama3.2_3b_longhealth.yaml",
        "num_tokens": (128, 512, 2048, 8192),
        "samples": 8,
        "temperature": 0.3,
        "max_new_tokens": 512,
    }
    quick: ClassVar[dict[str, Any]] = {
        "model": SMOLLM2,
        "recipe": "smollm2_text.yaml",
        "num_tokens": (128,),
        "steps": 20,
        "patients": ("patient_01",),
        "systems": ("truncated_icl", "no_context"),
        "max_context_tokens": 1024,
        "num_questions": 4,
        "samples": 2,
        "max_new_tokens": 48,
    }
    system_template = (
        "Please reference the patient medical records included below to answer the user's questions.\n\n"
        "<patient-records>\n{chunk}\n</patient-records>"
    )

    @checked
    def __init__(
        self,
        *,
        path: ReadFile,
        patients: Sequence[str] | None = tuple(f"patient_{i:02d}" for i in range(1, 11)),
        style: Literal["cartridges", "attention_matching"] = "cartridges",
        **more: Any,
    ) -> None:
        super().__init__(**more)
        chosen = None if patients is None else list(patients)
        self.task = LongHealth(path=path, patients=chosen, style=style)
        self.corpus_options: dict[str, Any] = {"path": str(path), "patients": chosen, "layout": "panel"}
        if (digest := hashlib.sha256(path.read_bytes()).hexdigest()) != SHA256:
            told = f"The file's sha256 is {digest}, not {SHA256}, which benchmark_v5.json is said to have."
            self.notes = (told, *self.notes)

    def parts(self) -> Sequence[Part]:
        return [Part("patients", LongHealthCorpus, self.corpus_options, {"accuracy": self.task})]
