"""What becomes of each setting of ``fit`` when a run goes on with another value of it: the one declaration.

`resuming` follows it, and ``python -m lit_cartridges.runs.resume_rules`` prints the table of docs/resume.md. A name covers
what lies under it (``model.init`` covers ``model.init.std``), unless that has a rule of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

Settings = Mapping[str, Any]


class Verdict(Enum):
    """The words of the table."""

    REFUSED = "must not change"
    MAY_CHANGE = "may change"
    NO_EFFECT = "no effect"


REFUSED, MAY_CHANGE, NO_EFFECT = Verdict


@dataclass(frozen=True)
class Rule:
    """One setting.

    Args:
        name: as the command line and the recipes know it.
        verdict: what a change of it means.
        why: for the table.
        when: another verdict, from the settings then and now, where others decide what this one means.
        recorded: false for what is about one start alone, or secret: never kept nor told.
        inherits: left out (None), it is the checkpoint's, which is no change.
    """

    name: str
    verdict: Verdict
    why: str = ""
    when: Callable[[Settings, Settings], Verdict] | None = None
    recorded: bool = True
    inherits: bool = False

    def verdict_for(self, then: Settings, now: Settings) -> Verdict:
        """What a change means to a run with the settings ``now``, whose checkpoint was made with ``then``."""
        return self.verdict if self.when is None else self.when(then, now)


def _off_corpus(then: Settings, now: Settings) -> Verdict:
    return REFUSED if now.get("data.source.off_corpus_share") else NO_EFFECT


def _mixed(then: Settings, now: Settings) -> Verdict:
    return REFUSED if now.get("data.off_corpus_fraction") else NO_EFFECT


def micro_batches(settings: Settings) -> int:
    """Of an optimizer step, on all processes."""
    names = ("accumulate_grad_batches", "devices", "num_nodes")
    steps, devices, nodes = (int(settings.get(f"trainer.{name}", 1)) for name in names)
    return steps * devices * nodes


def _accumulation(then: Settings, now: Settings) -> Verdict:
    return MAY_CHANGE if micro_batches(then) == micro_batches(now) else REFUSED


_ROUNDING = "other sums, the same to rounding"

RULES: tuple[Rule, ...] = (
    Rule(
        "seed_everything",
        NO_EFFECT,
        "nothing draws from the global generators: `model.seed` and `data.seed` decide",
    ),
    Rule("model.model", REFUSED, "a folder is known by its files, wherever it lies"),
    Rule("model.revision", REFUSED),
    Rule("model.quantization_config", REFUSED),
    Rule("model.device_map", MAY_CHANGE, _ROUNDING),
    Rule("model.trust_remote_code", MAY_CHANGE),
    Rule("model.token", MAY_CHANGE, "a secret, never kept", recorded=False),
    Rule("model.num_tokens", REFUSED),
    Rule("model.num_frozen_tokens", REFUSED),
    Rule("model.init", REFUSED, "with its options: the run has been started by it"),
    Rule("model.objective", REFUSED, "with its options"),
    Rule("model.teacher_model", REFUSED, "a folder is known by its files, wherever it lies"),
    Rule("model.learning_rate", MAY_CHANGE, "from the next step on, at its place in the schedule"),
    Rule("model.betas", REFUSED, "Adam's moments are averages by them"),
    Rule("model.warmup_steps", MAY_CHANGE, "from the next step on, at its place in the schedule"),
    Rule("model.final_lr_share", MAY_CHANGE, "from the next step on, at its place in the schedule"),
    Rule("model.dtype", REFUSED, "`auto` is what the model's config says"),
    Rule("model.gradient_checkpointing", MAY_CHANGE, _ROUNDING),
    Rule("model.compile_layers", MAY_CHANGE, _ROUNDING),
    Rule("model.cuda_graphs", MAY_CHANGE, _ROUNDING),
    Rule("model.loss_chunk_tokens", MAY_CHANGE, _ROUNDING),
    Rule("model.seed", REFUSED, "the init strategy drew from it"),
    Rule("data.corpus", REFUSED, "known by its text, wherever it lies"),
    Rule("data.source", REFUSED, "with its options, but for these"),
    Rule("data.source.teacher.max_rows", MAY_CHANGE, "of LocalTeacher"),
    Rule("data.source.teacher.base_urls", MAY_CHANGE, "of OpenAITeacher, as the next six"),
    Rule("data.source.teacher.api_key_env", MAY_CHANGE),
    Rule("data.source.teacher.max_requests_in_flight", MAY_CHANGE),
    Rule("data.source.teacher.timeout_s", MAY_CHANGE),
    Rule("data.source.teacher.max_retries", MAY_CHANGE),
    Rule("data.source.teacher.backoff_s", MAY_CHANGE),
    Rule("data.source.teacher.server_down_s", MAY_CHANGE),
    Rule("data.source.teacher.python", MAY_CHANGE, "of VLLM, as the next five; a new engine is started"),
    Rule("data.source.teacher.gpu_memory_utilization", MAY_CHANGE),
    Rule("data.source.teacher.devices", MAY_CHANGE),
    Rule("data.source.teacher.tensor_parallel_size", MAY_CHANGE, _ROUNDING),
    Rule("data.source.teacher.max_model_len", MAY_CHANGE),
    Rule("data.source.teacher.start_timeout_s", MAY_CHANGE),
    Rule("data.source.overlap", MAY_CHANGE),
    Rule("data.source.teacher_device", MAY_CHANGE, _ROUNDING),
    Rule("data.source.path", REFUSED, "known by its files' content, wherever they lie"),
    Rule("data.source.seed_prompts", REFUSED, "known by their wordings"),
    Rule(
        "data.source.off_corpus", REFUSED, "known by its text; no effect at `off_corpus_share` 0", _off_corpus
    ),
    Rule("data.source.recording", MAY_CHANGE, "conversations that are not found there are made again"),
    Rule("data.system_template", REFUSED),
    Rule("data.enable_thinking", REFUSED),
    Rule("data.groups_per_round", REFUSED),
    Rule("data.uses", REFUSED),
    Rule("data.off_corpus", REFUSED, "known by its requests; no effect at `off_corpus_fraction` 0", _mixed),
    Rule("data.off_corpus_fraction", REFUSED),
    Rule("data.tokens_per_batch", REFUSED),
    Rule("data.num_shards", REFUSED, "left out, it is the checkpoint's", inherits=True),
    Rule("data.validation", MAY_CHANGE),
    Rule("data.validation_groups", MAY_CHANGE),
    Rule("data.seed", REFUSED),
    Rule("trainer.accelerator", MAY_CHANGE, _ROUNDING),
    Rule("trainer.strategy", MAY_CHANGE, f"with its options; {_ROUNDING}"),
    Rule(
        "trainer.devices",
        MAY_CHANGE,
        "a step then takes as many times `accumulate_grad_batches` micro-batches",
    ),
    Rule("trainer.num_nodes", MAY_CHANGE, "as `trainer.devices`"),
    Rule("trainer.precision", REFUSED, "32-true alone is taken; `model.dtype` is the frozen model's"),
    Rule("trainer.logger", MAY_CHANGE),
    Rule("trainer.callbacks", MAY_CHANGE),
    Rule("trainer.fast_dev_run", MAY_CHANGE),
    Rule("trainer.max_epochs", MAY_CHANGE),
    Rule("trainer.min_epochs", MAY_CHANGE),
    Rule("trainer.max_steps", MAY_CHANGE, "the schedule then ends there, from the next step on"),
    Rule("trainer.min_steps", MAY_CHANGE),
    Rule("trainer.max_time", MAY_CHANGE),
    Rule("trainer.limit_train_batches", REFUSED, "it decides where epochs end"),
    Rule("trainer.limit_val_batches", MAY_CHANGE),
    Rule("trainer.limit_test_batches", NO_EFFECT),
    Rule("trainer.limit_predict_batches", NO_EFFECT),
    Rule("trainer.overfit_batches", REFUSED, "it decides where the stream begins again"),
    Rule("trainer.val_check_interval", MAY_CHANGE),
    Rule("trainer.check_val_every_n_epoch", MAY_CHANGE),
    Rule("trainer.num_sanity_val_steps", MAY_CHANGE),
    Rule("trainer.log_every_n_steps", MAY_CHANGE),
    Rule("trainer.enable_checkpointing", MAY_CHANGE),
    Rule("trainer.enable_progress_bar", MAY_CHANGE),
    Rule("trainer.enable_model_summary", MAY_CHANGE),
    Rule(
        "trainer.accumulate_grad_batches",
        REFUSED,
        "may change where `devices` × `num_nodes` × it stays what it was",
        _accumulation,
    ),
    Rule("trainer.gradient_clip_val", MAY_CHANGE, "from the next step on"),
    Rule("trainer.gradient_clip_algorithm", MAY_CHANGE, "from the next step on"),
    Rule("trainer.deterministic", MAY_CHANGE),
    Rule("trainer.benchmark", MAY_CHANGE),
    Rule("trainer.inference_mode", MAY_CHANGE),
    Rule("trainer.use_distributed_sampler", NO_EFFECT, "the stream is dealt by `data.num_shards`"),
    Rule("trainer.profiler", MAY_CHANGE),
    Rule("trainer.detect_anomaly", MAY_CHANGE),
    Rule("trainer.barebones", MAY_CHANGE),
    Rule("trainer.plugins", MAY_CHANGE),
    Rule("trainer.sync_batchnorm", NO_EFFECT, "the model is frozen"),
    Rule("trainer.reload_dataloaders_every_n_epochs", REFUSED, "it decides where epochs end"),
    Rule("trainer.default_root_dir", MAY_CHANGE, "a run's folder may be moved or copied"),
    Rule("trainer.enable_autolog_hparams", MAY_CHANGE),
    Rule("trainer.model_registry", NO_EFFECT),
    Rule("optimizer", REFUSED, "with its options: its state is the checkpoint's"),
    Rule("lr_scheduler", REFUSED, "with its options: its state is the checkpoint's"),
    Rule("checkpoint.every_n_steps", MAY_CHANGE),
    Rule("checkpoint.monitor", MAY_CHANGE, "the best is then looked for afresh"),
    Rule("checkpoint.mode", MAY_CHANGE, "the best is then looked for afresh"),
    Rule("checkpoint.folder", MAY_CHANGE),
    Rule("resume", MAY_CHANGE, "of each start by itself, as all of these; not told", recorded=False),
    Rule("ckpt_path", MAY_CHANGE, recorded=False),
    Rule("weights_only", MAY_CHANGE, recorded=False),
    Rule("config", MAY_CHANGE, recorded=False),
)
_BY_NAME = {rule.name: rule for rule in RULES}


def rule_of(name: str) -> Rule:
    """The rule of a setting, or of what it is a part of; a setting that nobody has declared must not change."""
    at = name
    while at:
        if at in _BY_NAME:
            return _BY_NAME[at]
        at = at.rpartition(".")[0]
    return Rule(name, REFUSED)


def table() -> str:
    """The rules in Markdown."""
    rows = [f"| `{rule.name}` | {rule.verdict.value} | {rule.why} |" for rule in RULES]
    return "\n".join(["| setting | when a run goes on | |", "| --- | --- | --- |", *rows]) + "\n"


if __name__ == "__main__":
    print(table(), end="")
