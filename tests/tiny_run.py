"""What a whole run needs, in a temporary folder: a tiny model with its tokenizer, a corpus, a recording, a trainer."""

from __future__ import annotations

from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lit_cartridges.conversations.conversation import Conversation, Message
from lit_cartridges.conversations.recording import tokenizer_fingerprint, write_conversations
from lit_cartridges.conversations.top_logprobs import TopLogprobs
from lit_cartridges.corpora.open_corpus import TextCorpus
from lit_cartridges.data import Recorded, SelfStudy, SelfStudyDataModule
from lit_cartridges.data.sources import Source
from lit_cartridges.module import LitCartridge
from tests.tiny_models import VOCAB, tiny_model

SPECIALS = ["<pad>", "<bos>", "<end>", "<unk>", "<system>", "<user>", "<assistant>"]
END, FIRST_WORD = 2, len(SPECIALS)
TEMPLATE = (
    "<bos>{% for message in messages %} <{{ message['role'] }}> {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %} <end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)
SEED_PROMPTS = {"question": ["w1 w2"], "summarization": ["w3"]}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """One word, one token: w0, w1, …, as many as the tiny models' vocabulary holds."""
    words = [*SPECIALS, *(f"w{i}" for i in range(VOCAB - len(SPECIALS)))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<end>",
        unk_token="<unk>",
        extra_special_tokens=["<system>", "<user>", "<assistant>"],
        chat_template=TEMPLATE,
        padding_side="left",
    )


def save_model(folder: Path, architecture: str = "llama") -> str:
    """A folder with a tiny model and its tokenizer; returns its name for `LitCartridge`."""
    tiny_model(architecture).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def save_corpus(path: Path, *, num_tokens: int = 120, seed: int = 0) -> str:
    """A text of random words."""
    path.write_text(words(num_tokens, np.random.default_rng(seed)))
    return str(path)


def words(count: int, rng: np.random.Generator) -> str:
    return " ".join(f"w{i}" for i in rng.integers(0, VOCAB - FIRST_WORD, count))


def message(role: str, ids: np.ndarray, top: TopLogprobs | None = None) -> Message:
    return Message(role, tokenizer().decode(ids, skip_special_tokens=True), ids, top)


def conversation(
    index: int,
    *,
    corpus: str | None = None,
    question_tokens: int = 3,
    answer_tokens: int = 6,
    k: int = 4,
    group: int | None = None,
    top_logprobs: bool = True,
) -> Conversation:
    """A conversation that ``index`` decides; its answer ends with the end token, and has random top-k."""
    rng = np.random.default_rng([7, index])
    question = rng.integers(FIRST_WORD, VOCAB, question_tokens)
    answer = np.append(rng.integers(FIRST_WORD, VOCAB, answer_tokens - 1), END)
    ids = np.stack([rng.permutation(VOCAB)[:k] for _ in answer])
    ids[:, 0] = answer
    values = np.sort(rng.normal(size=(answer_tokens, k)) * 2)[:, ::-1]
    logprobs = values - np.log(np.exp(values).sum(1, keepdims=True)) - 0.01
    metadata: dict[str, Any] = {
        "group": index // 4 if group is None else group,
        "index": index,
        "seed_prompt": ("question", "summarization")[index % 2],
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer()),
    }
    if corpus is not None:
        start = int(rng.integers(0, 40))
        metadata |= {
            "chunk_start_token": start,
            "chunk_num_tokens": 30,
            "corpus_sha256": TextCorpus(path=corpus).sha256,
        }
    top = TopLogprobs.from_dense(ids, logprobs, min_mass=1.0) if top_logprobs else None
    return Conversation((message("user", question), message("assistant", answer, top)), "w0", metadata)


def save_recording(path: Path, count: int = 16, **options: Any) -> str:
    """A recording of ``count`` conversations in groups of four."""
    write_conversations(path, [conversation(index, **options) for index in range(count)])
    return str(path)


class Curve(L.Callback):
    """The loss of every optimizer step, and what else a test wants to see between steps."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.batches: list[Any] = []
        self.batch_losses: list[float] = []
        self._window: list[float] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch)
        self.batch_losses.append(float(outputs["loss"]))
        self._window.append(self.batch_losses[-1])
        if batch.stream_state is not None:
            self.losses.append(sum(self._window))  # Lightning has divided them by their number
            self._window = []


class SaveAt(L.Callback):
    """A checkpoint after optimizer step ``step``, while the run goes on."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step and batch.stream_state is not None and not self.path.exists():
            trainer.save_checkpoint(self.path)


def new_module(model: str, **options: Any) -> LitCartridge:
    """A module with settings that make a tiny run move."""
    return LitCartridge(
        **({"model": model, "num_tokens": 8, "learning_rate": 0.05, "warmup_steps": 0} | options)
    )


def new_source(**options: Any) -> SelfStudy:
    """Self-study with the model itself, short enough for a test."""
    defaults: dict[str, Any] = {
        "min_chunk_tokens": 20,
        "max_chunk_tokens": 40,
        "seed_prompts": SEED_PROMPTS,
        "conversations_per_group": 4,
        "question_temperature": 1.0,
        "question_max_tokens": 5,
        "answer_max_tokens": 8,
        "top_k": 4,
    }
    return SelfStudy(**(defaults | options))


def new_data(corpus: str, *, source: Source | None = None, **options: Any) -> SelfStudyDataModule:
    """Small batches of `new_source`; those of ``options`` that are not the data module's are the source's.

    Both have an ``off_corpus``: it is the source's beside an ``off_corpus_share``.
    """
    own = {"corpus": corpus, "groups_per_round": 2, "tokens_per_batch": 40}
    known = set(signature(SelfStudyDataModule).parameters)
    if "off_corpus_share" in options:
        known.remove("off_corpus")
    own |= {name: options.pop(name) for name in [*options] if name in known}
    assert source is None or not options
    return SelfStudyDataModule(**own, source=source or new_source(**options))


def from_recording(corpus: str, path: str, **options: Any) -> SelfStudyDataModule:
    """Small batches of a recording."""
    return new_data(corpus, source=Recorded(path=path, top_k=4), **options)


def new_trainer(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """A quiet trainer on the CPU that logs every step, to nowhere."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return L.Trainer(callbacks=list(callbacks), **(defaults | options))


def same_tensors(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Equal to the last bit."""
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def fit(folder, module, data, *callbacks, ckpt_path=None, **options) -> tuple[L.Trainer, Curve]:
    """A run of four optimizer steps, unless the options say otherwise, and its losses."""
    curve = Curve()
    trainer = new_trainer(folder, curve, *callbacks, **({"max_steps": 4} | options))
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, curve


def one_batch(folder, module, data):
    """The module set up as in training, and the stream's first batch."""
    module.trainer = trainer = new_trainer(folder, max_steps=1, log_every_n_steps=100)
    data.trainer = trainer
    trainer.datamodule = data
    trainer.strategy.connect(module)
    data.setup("fit")
    module.setup("fit")
    module.configure_model()
    return next(iter(data.train_dataloader()))
