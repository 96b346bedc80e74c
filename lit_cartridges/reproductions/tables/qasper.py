"""QASPER: log-perplexity of succinct answers about sixteen papers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lit_cartridges.evals.asked import answer_ids
from lit_cartridges.evals.result import EvalResult
from lit_cartridges.evals.tasks.qasper import PAPERS, Qasper, QasperCorpus
from lit_cartridges.evals.tasks.task import EvalQuestion
from lit_cartridges.reproductions.asked import AskedReproduction, Part
from lit_cartridges.reproductions.reproduction import SMOLLM2
from lit_cartridges.settings import ReadFile, checked


class QasperTable(AskedReproduction):
    """How likely right answers about papers are.

    Args:
        questions: .jsonl of {question, answer} (HF's sabrieyuboglu/qasper-rewrite-gpt-4.1), which you bring.
        papers_file: QASPER's papers (.json by id), which you bring.
        papers: ids; by default the sixteen of the paper.
    """

    name = "qasper"
    paper = "arXiv 2506.06266, QASPER (arXiv 2105.03011)"
    metric = "log-perplexity: nats per token of the answers, tags included, every token alike"
    higher_is_better = False
    notes: tuple[str, ...] = (
        "The paper gives QASPER in figures alone: parity with ICL up to 100 times fewer positions.",
        "The token that ends an answer is not counted.",
    )
    defaults: ClassVar[dict[str, Any]] = {
        "model": "meta-llama/Llama-3.2-3B-Instruct",
        "recipe": "llama3.2_3b_longhealth.yaml",
        "num_tokens": (128, 512, 2048, 8192),
        "max_new_tokens": 1,
    }
    quick: ClassVar[dict[str, Any]] = {
        "model": SMOLLM2,
        "recipe": "smollm2_text.yaml",
        "fit": ("--data.groups_per_round=2",),
        "num_tokens": (128,),
        "steps": 20,
        "systems": ("truncated_icl", "no_context"),
        "max_context_tokens": 2048,
        "papers": PAPERS[:1],
        "num_questions": 8,
    }
    system_template = "Below are extracts of scientific papers. Rely on them when you answer.\n\n{chunk}"

    @checked
    def __init__(
        self, *, questions: ReadFile, papers_file: ReadFile, papers: Sequence[str] = PAPERS, **more: Any
    ) -> None:
        super().__init__(**more)
        self.task = Qasper(path=questions)
        self.corpus_options: dict[str, Any] = {"path": str(papers_file), "papers": list(papers)}
        QasperCorpus(**self.corpus_options)  # refused now

    def parts(self) -> Sequence[Part]:
        return [Part("papers", QasperCorpus, self.corpus_options, {"log-perplexity": self.task})]

    def values(self, result: EvalResult, questions: Sequence[EvalQuestion]) -> dict[str, Any]:
        """See `AskedReproduction.values`."""
        return {
            "values": [-(reply.log_likelihood or 0.0) for reply in result.replies],
            "weights": [float(len(answer_ids(self.renderer, one.answer or ""))) for one in questions],
        }
