"""The two sides that are connected before a run: what data must know of the student, and what a student asks of its data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from transformers import PretrainedConfig, PreTrainedModel

from lit_cartridges.conversations.material import Material
from lit_cartridges.losses import Objective, TopKDistillation

if TYPE_CHECKING:
    from lit_cartridges.strategies.frozen_models import FrozenModel


@dataclass(frozen=True, kw_only=True)
class Student:
    """For whom the data is made; nothing of it needs the model's weights.

    Args:
        tokenizer: of the model.
        config: of the model.
        objective: decides what must be known of the teacher's answers.
        num_tokens: positions of the cartridge, if they are known.
        frozen_teacher: who asks and answers, by name, if it has one.
    """

    tokenizer: Any
    config: PretrainedConfig
    objective: Objective = field(default_factory=TopKDistillation)
    num_tokens: int | None = None
    frozen_teacher: FrozenModel | None = None

    @property
    def vocab_size(self) -> int:
        """Token ids that the model has; more than the tokenizer's where its embedding is padded."""
        return int(self.config.get_text_config().vocab_size)


class StudyData(Protocol):
    """What `LitCartridge.connect` takes; `SelfStudyDataModule` is one."""

    def connect(self, student: Student) -> Material:
        """Read the corpus as this student reads it, and check the settings against it."""
        ...

    def bind_teacher(self, model: PreTrainedModel) -> None:
        """Take the frozen model that asks and answers, once it is loaded."""
        ...

    def run_settings(self) -> dict[str, Any]:
        """See `lit_cartridges.runs.run_settings`."""
        ...
