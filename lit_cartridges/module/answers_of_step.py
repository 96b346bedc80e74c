"""Whether the micro-batches of an optimizer step are those that its loss is averaged over."""

from __future__ import annotations

from lit_cartridges.data.batch import PackedBatch
from lit_cartridges.errors import SettingError


class AnswersOfStep:
    """Counts a step's answer tokens on this process; each batch brings the number that its step should have.

    A loader of one's own may shuffle batches, or not know how many make a step. The loss would then be weighted by the
    wrong number of answers.
    """

    def __init__(self) -> None:
        self._answers = self._expected = self._steps = 0

    def take(self, batch: object, batches_per_step: int) -> None:
        """
        Args:
            batches_per_step: ``accumulate_grad_batches`` of the trainer.

        Raises:
            TypeError: no `PackedBatch`.
            SettingError: a batch that does not know its step's answers, or of another step than those before it.
        """
        if not isinstance(batch, PackedBatch):
            raise TypeError(
                f"a LitCartridge trains on PackedBatch, and the loader gave a {type(batch).__name__}; make them by "
                "lit_cartridges.data.packed, and give the DataLoader batch_size=None"
            )
        if self._answers == self._expected:  # a step is complete, and another one begins
            self._answers, self._expected = 0, batch.window_answers
            self._steps += 1
        self._answers += len(batch.target_rows)
        if self._expected != batch.window_answers or self._answers > self._expected:
            raise self._wrong(batch.window_answers, {"trainer.accumulate_grad_batches": batches_per_step})

    def end(self) -> None:
        """At the optimizer step.

        Raises:
            SettingError: its batches have fewer answers than they say, or are of several steps.
        """
        steps, self._steps = self._steps, 0
        if self._answers != self._expected or steps != 1:
            raise self._wrong(self._expected, {})

    def _wrong(self, expected: int, settings: dict[str, int]) -> SettingError:
        answers = self._answers
        self._answers = self._expected = self._steps = 0
        return SettingError(
            f"the batches of an optimizer step are not one step's: the last have {answers} answer tokens of {expected}; "
            "make them by packed(examples, tokens, batches_per_step=N) with N of accumulate_grad_batches, and do not shuffle",
            settings,
        )
