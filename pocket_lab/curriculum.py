"""The curriculum: what the next batch holds, raised step by step as the model's accuracy allows."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Curriculum:
    """Where training stands, and the rules by which it moves on.

    Attributes:
        num_pairs: pairs in a drill, 3 to `max_pairs`.
        pool: words in play in drills; doubles up to `max_pool`.
        num_tokens: longest corpus in tokens; grows by half up to `max_tokens`.
        drill_accuracy, prose_accuracy: running means over the last steps, since the last move.
        drill_steps, prose_steps: steps seen since the last move.
    """

    num_pairs: int = 3
    pool: int = 100
    num_tokens: int = 64
    drill_accuracy: float = 0.0
    prose_accuracy: float = 0.0
    drill_steps: int = 0
    prose_steps: int = 0

    max_pairs = 16
    max_pool = 750
    max_tokens = 2048
    drills_rise_at = 0.9
    prose_rises_at = 0.85
    patience = 15  # steps that a mean must have seen before a move

    @property
    def drill_share(self) -> float:
        """Share of batches that are drills: most until they are learnt, some until longer prose is read, then few."""
        if self.num_pairs <= 8:
            return 0.6
        return 0.2 if self.num_tokens <= 256 else 0.04

    def observe(self, drill_accuracy: float | None, prose_accuracy: float | None) -> None:
        """Takes a step's accuracies (None: nothing measured) and moves on where they allow it."""
        if drill_accuracy is not None:
            self.drill_steps += 1
            self.drill_accuracy += (drill_accuracy - self.drill_accuracy) / min(self.drill_steps, 10)
            if self.drill_steps >= self.patience and self.drill_accuracy > self.drills_rise_at:
                self._raise_drill()
        if prose_accuracy is not None:
            self.prose_steps += 1
            self.prose_accuracy += (prose_accuracy - self.prose_accuracy) / min(self.prose_steps, 10)
            if self.prose_steps >= self.patience and self.prose_accuracy > self.prose_rises_at:
                self.num_tokens = min(self.num_tokens * 3 // 2, self.max_tokens)
                self.prose_steps, self.prose_accuracy = 0, 0.0

    def _raise_drill(self) -> None:
        if self.pool < self.max_pool and (
            self.pool <= 50 * self.num_pairs or self.num_pairs == self.max_pairs
        ):
            self.pool = min(2 * self.pool, self.max_pool)
        else:
            self.num_pairs = min(
                2 * self.num_pairs if self.num_pairs < 4 else self.num_pairs + 2, self.max_pairs
            )
        self.drill_steps, self.drill_accuracy = 0, 0.0

    def state_dict(self) -> dict[str, float]:
        """The current standing, for a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Takes up a standing saved by `state_dict`."""
        for key, value in state.items():
            setattr(self, key, value)
