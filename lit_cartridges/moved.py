"""Modules by the names they had in 0.1, which stand in recipes, in saved configs and in users' code.

`import lit_cartridges.prefill` gives `lit_cartridges.attention.prefill`, the same module and not a copy, and so do class paths
of a run's ``config.yaml``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = __name__.rpartition(".")[0]
MOVED = {
    "atomic_files": "runs.atomic_files",
    "attention_kernels": "attention.kernels",
    "checkpoint_files": "runs.checkpoint_files",
    "commands.trainer_cli": "cartridge_cli",
    "comparison.strategies": "comparison.init_options",
    "data.example_source": "data.sources.example_source",
    "evals.cascade_system": "evals.systems",
    "evals.choices": "evals.tasks.choices",
    "evals.command": "commands.evaluate",
    "evals.longhealth": "evals.tasks.longhealth",
    "evals.passkey_command": "commands.passkey",
    "evals.perplexity_command": "commands.perplexity",
    "evals.question_file": "evals.tasks.question_file",
    "evals.system": "evals.systems",
    "evals.task": "evals.tasks.task",
    "formats.base_model": "formats.source",
    "key_biases": "attention.key_biases",
    "merged_attention": "attention.merged",
    "new_cartridge": "module.new_cartridge",
    "packed_forward": "module.packed_forward",
    "pocket.seed_prompts": "pocket.language",
    "pocket.statements": "pocket.pocket_text",
    "prefill": "attention.prefill",
    "recomputing": "module.recomputing",
    "rotary": "attention.rotary",
    "run_folder": "runs.run_folder",
    "run_metrics": "runs.run_metrics",
    "run_progress": "runs.run_progress",
    "self_study.chat_pieces": "conversations.chat_pieces",
    "self_study.chunkers": "corpora.chunkers",
    "self_study.conversation": "conversations",
    "self_study.corpus": "corpora",
    "self_study.corpus_base": "corpora.corpus",
    "self_study.json_corpus": "corpora.json_corpus",
    "self_study.readers": "corpora",
    "self_study.recording": "conversations.recording",
    "self_study.renderer": "conversations.renderer",
    "steady_bar": "runs.steady_bar",
    "strategies.returned_memory": "strategies.sharded_loading",
    "teachers.conversation": "conversations.conversation",
    "teachers.conversation_columns": "conversations.columns",
    "teachers.conversation_file": "conversations.parquet",
    "teachers.peft_conversations": "conversations.peft",
    "teachers.recorded": "conversations.recorded",
    "teachers.tokenizer_check": "conversations.tokenizer_check",
    "teachers.top_logprobs": "conversations.top_logprobs",
    "training_processes": "strategies.training_processes",
}


class MovedModules(MetaPathFinder, Loader):
    """Finds a module of `MOVED` by its old name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == _PACKAGE and name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module under its new name."""
        module = import_module(f"{_PACKAGE}.{MOVED[spec.name.partition('.')[2]]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already; the import system has given it the old name's spec, which is taken back."""
        module.__spec__ = import_spec(module)


def import_spec(module: ModuleType) -> ModuleSpec | None:
    """The spec under which a module was found first."""
    spec = module.__spec__
    return spec.loader_state if spec is not None and isinstance(spec.loader, MovedModules) else spec


def install() -> None:
    """Let old names be found, once."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
