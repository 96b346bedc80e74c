"""The recipe that is trained again and again, as far as the comparison must know it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.accelerators import CPUAccelerator

from lit_cartridges.callbacks import LongContextEval
from lit_cartridges.cartridge_cli import CartridgeCLI
from lit_cartridges.data import Recorded, SelfStudy
from lit_cartridges.evals.asked import reserve_tokens
from lit_cartridges.evals.systems import CARTRIDGE, require_room


class Recipe:
    """Builds what ``fit`` would build, short of loading the model, so that a bad setting ends here.

    Args:
        name: file, or name of an installed recipe.
        arguments: further options of ``fit``.

    Raises:
        ValueError: it does not train on a corpus, or does not ask questions; the message says what to add.
    """

    def __init__(self, name: str, arguments: Sequence[str] = ()) -> None:
        self.name, self.arguments = name, tuple(arguments)
        cli = CartridgeCLI.run_with([f"--config={name}", *arguments, "--trainer.logger=false"], run=False)
        self._module, self._data = cli.model, cli.datamodule
        settings: dict[str, Any] = json.loads(cli.parser.dump(cli.config, format="json", skip_unset=False))
        self._callbacks: list[dict[str, Any]] = settings["trainer"].get("callbacks") or []
        trainer: Any = cli.trainer
        asking = [callback for callback in trainer.callbacks if isinstance(callback, LongContextEval)]
        if len(asking) != 1:
            raise ValueError(
                f"recipe={name!r} has {len(asking)} LongContextEval under trainer.callbacks, and a comparison needs one: "
                "its task has the questions by which the strategies are compared (recipes/pocket.yaml shows how)"
            )
        self.eval = asking[0]
        self._module.connect(self._data)
        self._reserve_tokens = reserve_tokens(
            self._module.material.renderer,
            self.eval.task.pick(self.eval.num_questions),
            self.eval.max_new_tokens,
        )
        self.max_steps = int(trainer.max_steps)
        self.log_every_n_steps = max(1, int(trainer.log_every_n_steps))
        self.on_cpu = isinstance(trainer.accelerator, CPUAccelerator)

    @property
    def model_name(self) -> str:
        """As it was given."""
        return self._module.model_name

    @property
    def corpus_tokens(self) -> int:
        """Length of the corpus."""
        return len(self._module.material.corpus_ids)

    @property
    def makes_conversations(self) -> bool:
        """Whether a run makes the conversations that it trains on."""
        return isinstance(self._data.source, SelfStudy)

    @property
    def trains_on_recording(self) -> bool:
        """Whether it trains on conversations that are there, which are about its own corpus."""
        return isinstance(self._data.source, Recorded)

    def require_room(self, num_tokens: int) -> None:
        """
        Raises:
            ValueError: no cartridge of so many positions can be trained, or asked.
        """
        if num_tokens <= self._module.num_frozen_tokens:
            raise ValueError(
                f"a cartridge of {num_tokens} positions has none left to train beside model.num_frozen_tokens="
                f"{self._module.num_frozen_tokens}; choose a lower compression of the {self.corpus_tokens} corpus tokens"
            )
        require_room(self._module.model_config, CARTRIDGE, num_tokens, self._reserve_tokens)

    def callbacks(self, *, every_n_steps: int | None) -> list[dict[str, Any]]:
        """Its callbacks, for ``--trainer.callbacks``: the cartridge alone is asked, before the first step, every
        ``every_n_steps``, and at the end; or, with None, not at all."""
        chosen = []
        for callback in self._callbacks:
            if callback["class_path"].rpartition(".")[2] == LongContextEval.__name__:
                if every_n_steps is None:
                    continue
                when = {"every_n_steps": every_n_steps, "at_start": True, "at_end": True}
                own = {**callback.get("init_args", {}), **when, "systems": [CARTRIDGE]}
                callback = {**callback, "init_args": own}
            chosen.append(callback)
        return chosen
