"""The frozen models of a module: the student, and a teacher where that is another one.

They are attributes of it, yet no parts for those who walk through its parts (averages, summaries, DDP), unless a strategy shards
them: what is averaged or sent around is what is trained.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property
from typing import Any, Self

import lightning as L
from transformers import PretrainedConfig, PreTrainedModel

from lit_cartridges.conversations.tokenizer_check import tokenizer_fingerprint
from lit_cartridges.models import stays_in_place
from lit_cartridges.strategies.frozen_models import FrozenModel

_FROZEN = ("student", "teacher", "head", "teacher_head")


class HoldsFrozenModels(L.LightningModule):
    """A module that reads frozen models.

    Attributes:
        student, teacher: the models, once they are held; ``teacher`` stays None where the student teaches.
    """

    model_name: str
    teacher_name: str | None
    student: PreTrainedModel | None
    teacher: PreTrainedModel | None
    _student: FrozenModel
    _teacher: FrozenModel | None

    def __init__(self) -> None:
        super().__init__()
        self.student = self.teacher = None

    @cached_property
    def model_config(self) -> PretrainedConfig:
        """The student's config; known before its weights are."""
        return self._student.config()

    @cached_property
    def tokenizer(self) -> Any:
        """The student's tokenizer."""
        return self._student.tokenizer()

    def require_one_tokenizer(self) -> None:
        """
        Raises:
            ValueError: the teacher cannot be loaded, or reads other tokens than the student.
        """
        if self._teacher is not None:
            self._teacher.require_loadable(self.trainer.strategy)
            theirs = tokenizer_fingerprint(self._teacher.tokenizer())
            if theirs != tokenizer_fingerprint(self.tokenizer):
                raise ValueError(
                    f"model.teacher_model={self.teacher_name!r} has another tokenizer than {self.model_name}; a teacher "
                    "needs the student's"
                )

    @property
    def frozen_teacher(self) -> PreTrainedModel:
        """The model that asks and answers: a separate one, or the student without its cartridge."""
        model = self.teacher if self.teacher is not None else self.student
        assert model is not None, "configure_model has not run"
        return model

    def hold(self, name: str, model: PreTrainedModel) -> None:
        """As an attribute; in sight of those who walk through this module's parts only where a strategy shards it.

        What averages or sums up the weights of a module then finds those that are trained.
        """
        if getattr(self.trainer.strategy, "shards_frozen_models", False):
            setattr(self, name, model)
        else:
            self.__dict__[name] = model

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves to another device take the frozen models along, but for one that stays where it was loaded."""
        for name in ("student", "teacher"):
            model = self.__dict__.get(name)
            if model is not None and not stays_in_place(model):
                model._apply(fn)
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A module with a cartridge of its own and the same frozen models: callbacks that average weights keep one."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(self.__dict__)
        memo |= {id(part): part for name, part in self._modules.items() if name in _FROZEN}
        for name in ("_parameters", "_buffers", "_modules"):
            copied.__dict__[name] = deepcopy(self.__dict__[name], memo)
        copied._trainer = None
        return copied
