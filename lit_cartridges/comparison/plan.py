"""What the comparison trains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from math import gcd
from pathlib import Path

from lit_cartridges.comparison.init_options import FROM_CARTRIDGE, TEXT, Options
from lit_cartridges.comparison.recipe import Recipe
from lit_cartridges.init import INITS
from lit_cartridges.pocket.world import World

_POCKET = "package:lit_cartridges.pocket/model"
# Of the other text: a world apart from those of recipes and demo.
_OTHER_WORLD = 1_000_003


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One training.

    Args:
        strategy: how its cartridge starts.
        compression: corpus tokens per position.
        seed: of the conversations, of their order, and of the strategy's random choices.
        num_tokens: positions of the cartridge.
        max_steps: optimizer steps.
        folder: where it writes.
        options: the recipe and what is set otherwise, for ``fit``.
    """

    strategy: str
    compression: float
    seed: int
    num_tokens: int
    max_steps: int
    folder: Path
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        """For the bars."""
        return f"{self.strategy} {self.compression:g}× seed {self.seed}"

    def arguments(self) -> list[str]:
        """The command line after ``lit-cartridges``."""
        return ["fit", *self.options]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All trainings of a comparison.

    Args:
        recipe: what is trained.
        strategies, compressions, seeds, steps: every combination is one run of ``steps`` optimizer steps.
        every_n_steps: optimizer steps between measurements.
        options: of the strategies.
        other_text: what `Text` reads, unless its own path is set, and the corpus of the cartridges that
            `FromCartridge` starts from, likewise.
        folder: of the comparison.
    """

    recipe: Recipe
    strategies: Sequence[str]
    compressions: Sequence[float]
    seeds: int
    steps: int
    every_n_steps: int
    folder: Path
    other_text: Path | None = None
    options: Options = field(default_factory=dict)

    def num_tokens(self, compression: float) -> int:
        """Positions of a cartridge."""
        return max(1, int(self.recipe.corpus_tokens / compression))

    @property
    def needs_other_text(self) -> list[str]:
        """The compared strategies that need another text."""
        return [
            name for name in (TEXT, FROM_CARTRIDGE) if name in self.strategies and not self._has_path(name)
        ]

    @property
    def makes_other_text(self) -> bool:
        """Whether `write_other_text` can write one: in the bundled model's language."""
        return self.recipe.model_name == _POCKET

    @property
    def other_text_file(self) -> Path:
        """Where the other text lies, or will."""
        return self.other_text or self.folder / "other_text.txt"

    def write_other_text(self) -> None:
        """Of another held-out world of the pocket language, as long as the corpus."""
        if self.needs_other_text and self.other_text is None:
            world = World(_OTHER_WORLD, held_out=True, part=(1, 2))
            self.folder.mkdir(parents=True, exist_ok=True)
            self.other_text_file.write_text(world.corpus(self.recipe.corpus_tokens).text + "\n")

    def sources(self) -> list[ComparedRun]:
        """Cartridges of the other text, for `FromCartridge`: one per compression, trained from `FirstTokens` for as many
        steps, with seed 0. They know nothing of the corpus, so the strategy is compared as a start like the others."""
        if FROM_CARTRIDGE not in self.needs_other_text:
            return []
        own = {
            "data.corpus": str(self.other_text_file),
            **({"data.source": "SelfStudy"} if self.recipe.trains_on_recording else {}),
            "trainer.callbacks": json.dumps(self.recipe.callbacks(every_n_steps=None)),
        }
        return [
            self._run("FirstTokens", compression, 0, label="other_text", own=own)
            for compression in self.compressions
        ]

    def runs(self) -> list[ComparedRun]:
        """All that is compared. Neighbours differ in their seed, so that runs at one time seldom make the same
        conversations twice; `FromCartridge` needs `sources` first."""
        return [
            self._run(strategy, compression, seed, settings=self.settings(strategy, compression))
            for strategy, compression, seed in product(self.strategies, self.compressions, range(self.seeds))
        ]

    def settings(self, strategy: str, compression: float) -> list[str]:
        """The strategy's ``KEY=VALUE`` options."""
        settings = list(self.options.get(strategy, ()))
        if strategy in self.needs_other_text:
            source = self._folder("other_text", compression, 0) / "cartridge"
            settings.append(f"path={self.other_text_file if strategy == TEXT else source}")
        return settings

    def _has_path(self, strategy: str) -> bool:
        keys = {setting.partition("=")[0] for setting in self.options.get(strategy, ())}
        return bool(keys & {"path", "text"})

    def _folder(self, label: str, compression: float, seed: int) -> Path:
        return self.folder / f"{label}_{compression:g}x_seed{seed}"

    def _run(
        self,
        strategy: str,
        compression: float,
        seed: int,
        *,
        label: str | None = None,
        settings: Sequence[str] = (),
        own: dict[str, str] | None = None,
    ) -> ComparedRun:
        """``label`` names its folder and its conversations where they are not about the recipe's corpus."""
        recipe, folder = self.recipe, self._folder(label or strategy, compression, seed)
        num_tokens = self.num_tokens(compression)
        options = {
            "seed_everything": str(seed),
            "trainer.default_root_dir": str(folder),
            "trainer.max_steps": str(self.steps),
            # So that the training seconds are logged whenever the cartridge is asked.
            "trainer.log_every_n_steps": str(gcd(recipe.log_every_n_steps, self.every_n_steps)),
            "trainer.callbacks": json.dumps(recipe.callbacks(every_n_steps=self.every_n_steps)),
            "model.num_tokens": str(num_tokens),
            "model.seed": str(seed),
            "data.seed": str(seed),
            **(own or {}),
        }
        if recipe.makes_conversations or label:
            # Conversations of one seed are shared: the first run that needs a group writes it.
            options["data.source.recording"] = str(
                self.folder / f"conversations_{label or 'corpus'}_seed{seed}"
            )
        init = [f"model.init={INITS[strategy].__module__}.{strategy}", *(f"model.init.{s}" for s in settings)]
        return ComparedRun(
            strategy=strategy,
            compression=compression,
            seed=seed,
            num_tokens=num_tokens,
            max_steps=self.steps,
            folder=folder,
            options=(
                f"--config={recipe.name}",
                *recipe.arguments,
                *(f"--{name}={value}" for name, value in options.items()),
                *(f"--{setting}" for setting in init),
            ),
        )
