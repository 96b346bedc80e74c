"""What an evaluation found, as figures and as the replies behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lit_cartridges.cartridge_files.facts import Score
from lit_cartridges.evals.statistics import Mean


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One question's outcome; `log_likelihood` and `teacher_divergence` are those of the reference answer, in nats per token.

    Where there is no reference answer it is empty, and the log-likelihood None.
    Where several replies were sampled, `reply` and `right` are the first's, and `share_right` is the share of right ones.
    """

    prompt: str
    answer: str
    reply: str
    right: bool
    log_likelihood: float | None
    teacher_divergence: float | None = None
    others: tuple[str, ...] = ()
    share_right: float | None = None

    @property
    def score(self) -> float:
        """Of all of the question's replies, 0 to 1."""
        return float(self.right) if self.share_right is None else self.share_right


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """The figures of one system on one task.

    Args:
        system, task: their names.
        accuracy: share of right replies, 0 to 1, and its standard error.
        answer_log_likelihood: of the reference answers' tokens, in nats per token; None where the task has none.
        seconds_per_answer: wall-clock decoding time over answers, ``batch_size`` questions at a time; reading the
            corpus is not in it.
        prefill_s: seconds that reading the corpus took, once.
        num_kv_tokens, kv_bytes: positions in front of the question, and the bytes of their keys and values.
        teacher_divergence: KL(teacher ‖ system) of the answers' tokens in nats per token, over the tokens that the teacher's
            record has log-probabilities of; None where nothing is recorded.
        figures: what the task measures beside these, by their titles.
        replies: in the order of the questions.
    """

    system: str
    task: str
    accuracy: float
    accuracy_standard_error: float
    answer_log_likelihood: float | None
    seconds_per_answer: float
    prefill_s: float
    num_kv_tokens: int
    kv_bytes: int
    num_questions: int
    batch_size: int
    teacher_divergence: float | None = None
    figures: Mapping[str, Mean] = field(default_factory=dict)
    replies: tuple[Reply, ...] = field(default=(), repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """The figures that change as a cartridge trains, by their logged names."""
        measured = {
            "accuracy": self.accuracy,
            "accuracy_standard_error": self.accuracy_standard_error,
            "answer_log_likelihood": self.answer_log_likelihood,
            "seconds_per_answer": self.seconds_per_answer,
            "teacher_divergence": self.teacher_divergence,
        }
        return {name: value for name, value in measured.items() if value is not None}

    def score(self, system: str | None = None) -> Score:
        """The figures as a cartridge's card has them, under another name if need be."""
        names = [field.name for field in fields(Score)]
        known = {name: getattr(self, name) for name in names}
        return Score(**known | {"system": system or self.system})

    def as_dict(self, *, with_replies: bool = True) -> dict[str, Any]:
        """For JSON."""
        content = asdict(self)
        if not with_replies:
            del content["replies"]
        return content
