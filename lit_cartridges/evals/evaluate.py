"""Asks a system the questions of a task, and measures its answers.

Data flow: questions → prompts behind one shared prefix → replies, greedy or sampled, a batch at a time → graded by the
task; and the reference answers, teacher-forced → their log-likelihood, and for recorded ones the divergence from the
teacher. The system decides how both are read; a prefix
is read as training does (`Reading`), so a cartridge is scored as it was trained.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from lit_cartridges.attention import reads_prefixes
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.asked import AskedQuestion, asked, longest
from lit_cartridges.evals.metrics import AnswerLogLikelihood, SecondsPerAnswer, ShareRight, TeacherDivergence
from lit_cartridges.evals.result import EvalResult, Reply
from lit_cartridges.evals.statistics import Mean
from lit_cartridges.evals.systems.system import System
from lit_cartridges.evals.tasks.task import EvalError, EvalTask
from lit_cartridges.generation import greedy, left_padded, pad_token_id, sampled
from lit_cartridges.losses import LanguageHead, NextToken, Targets, TopKDistillation, chunked_loss
from lit_cartridges.terminal import printable_line


@dataclass(frozen=True)
class Decoding:
    """How a batch's replies are chosen; `seed` names the draw."""

    max_new_tokens: int
    temperature: float = 0.0
    seed: str = ""

    def config(self, stops: Sequence[int]) -> GenerationConfig:
        if not self.temperature:
            return greedy(stops, self.max_new_tokens)
        return sampled(stops, self.max_new_tokens, self.temperature)

    @contextmanager
    def drawing(self, device: torch.device) -> Iterator[None]:
        """A body that draws from this seed, and leaves the process's random state as it was."""
        if not self.temperature:
            yield
            return
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(random.Random(self.seed).getrandbits(63))
            yield


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    renderer: ChatRenderer,
    system: System,
    task: EvalTask,
    *,
    batch_size: int = 64,
    max_new_tokens: int = 64,
    num_questions: int | None = None,
    temperature: float = 0.0,
    samples: int = 1,
    seed: int = 0,
    split: bool = False,
    progress: bool = False,
) -> EvalResult:
    """Ask ``system`` the questions of ``task``.

    Args:
        model: frozen; it is in eval mode meanwhile, and as it was afterwards.
        batch_size: questions decoded together.
        max_new_tokens: length at which a reply is cut.
        num_questions: ask so many, at even distances; None for all.
        temperature: of replies; 0 takes the likeliest token.
        samples: replies per question; accuracy is the mean over questions of their shares of right ones, and its error that of
            this mean over questions.
        seed: of sampled replies, with the question's place and the batch that it is in.
        split: share the questions among the processes of torch.distributed, which must all call this and all get the
            whole result. They then run the same number of forward calls, as a sharded model needs.
        progress: show a bar.

    Raises:
        EvalError: no questions, or an empty reference answer.
        ContextTooLong: prefix, question and answer do not fit the model's positions.
    """
    if batch_size < 1 or max_new_tokens < 1:
        raise EvalError(f"batch_size={batch_size} and max_new_tokens={max_new_tokens} must be at least 1")
    if samples < 1 or (samples > 1 and not temperature > 0):
        raise EvalError(
            f"samples={samples}, temperature={temperature}: give one sample, or more at a temperature above 0"
        )
    questions = task.pick(num_questions)
    task.require_tokenizer(renderer.tokenizer, vocab_size=model.config.get_text_config().vocab_size)
    rank, world_size = _processes(split)
    share = asked(
        renderer, questions, after_context=system.uses_context_prompt, rank=rank, world_size=world_size
    )
    system.require_room(model.config, longest(share, max_new_tokens))
    # Where processes add up, the figures must be where the backend can reach them.
    device = model.device if world_size > 1 else torch.device("cpu")
    sync = world_size > 1
    right = ShareRight(sync_on_compute=sync).to(device)
    likelihood = AnswerLogLikelihood(sync_on_compute=sync).to(device)
    divergence = TeacherDivergence(sync_on_compute=sync).to(device)
    seconds = SecondsPerAnswer(sync_on_compute=sync).to(device)
    found: dict[int, Reply] = {}
    batches = [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
    with eval_mode(model), reads_prefixes(model):
        console = Console(stderr=True)
        told = escape(printable_line(system.name))
        for batch in track(batches, told, console=console, transient=True, disable=not progress):
            drawn = []
            for sample in range(samples):
                decoding = Decoding(max_new_tokens, temperature, f"{seed} {batch[0].index} {sample}")
                replies, took = _replies(model, renderer, system, batch, decoding, in_step=world_size > 1)
                drawn.append(replies)
                seconds.update(took, len(batch))
            scored: list[tuple[Tensor, Tensor | None]] = [(torch.empty(0), None)] * len(batch)
            if any(one.answer_ids for one in batch):
                scored = answer_scores(model, system, batch)
            for one, said, (log_likelihoods, divergences) in zip(
                batch, zip(*drawn, strict=True), scored, strict=True
            ):
                if one.counted:
                    question = questions[one.index]
                    are_right = [bool(task.is_right(question, reply)) for reply in said]
                    right.update(torch.tensor([fmean(are_right)], device=device))
                    likelihood.update(log_likelihoods.to(device))
                    if divergences is not None:
                        divergence.update(divergences.to(device))
                    found[one.index] = Reply(
                        prompt=question.prompt,
                        answer=question.answer or "",
                        reply=said[0],
                        right=are_right[0],
                        log_likelihood=log_likelihoods.mean().item() if len(log_likelihoods) else None,
                        teacher_divergence=None if divergences is None else divergences.mean().item(),
                        others=said[1:],
                        share_right=fmean(are_right) if samples > 1 else None,
                    )
    if world_size > 1:
        found = _gathered(found, world_size)
    replied = tuple(found[index] for index in sorted(found))
    figures = task.figures(questions, [one.reply for one in replied])
    accuracy, standard_error = (figure.item() for figure in right.compute())
    if samples > 1:
        standard_error = Mean.of([reply.score for reply in replied]).standard_error or 0.0
    return EvalResult(
        system=system.name,
        task=task.describe(),
        accuracy=accuracy,
        accuracy_standard_error=standard_error,
        answer_log_likelihood=likelihood.compute().item() if likelihood.tokens else None,
        seconds_per_answer=seconds.compute().item(),
        prefill_s=system.prefill_s,
        num_kv_tokens=system.num_kv_tokens,
        kv_bytes=system.kv_bytes,
        num_questions=len(questions),
        batch_size=batch_size,
        teacher_divergence=divergence.compute().item() if questions[0].recorded is not None else None,
        figures={title: Mean(*pair) for title, pair in figures.items()},
        replies=replied,
    )


def _replies(
    model: PreTrainedModel,
    renderer: ChatRenderer,
    system: System,
    batch: Sequence[AskedQuestion],
    decoding: Decoding,
    *,
    in_step: bool,
) -> tuple[list[str], float]:
    """Replies, and the seconds that they took."""
    rows, took = reply_ids(model, renderer, system, batch, decoding, in_step=in_step)
    stops = renderer.stop_token_ids(model.generation_config)
    return [renderer.text(np.asarray(row[:-1] if row[-1] in stops else row)) for row in rows], took


def reply_ids(
    model: PreTrainedModel,
    renderer: ChatRenderer,
    system: System,
    batch: Sequence[AskedQuestion],
    decoding: Decoding,
    *,
    in_step: bool = False,
) -> tuple[list[list[int]], float]:
    """Token ids of replies, with the token that ended each unless it was cut, and the seconds that they took."""
    stops = renderer.stop_token_ids(model.generation_config)
    ids, mask = left_padded([one.prompt_ids for one in batch], pad_token_id(stops), model.device)
    options = {"generation_config": decoding.config(stops)} | ({"synced_gpus": True} if in_step else {})
    start = time.perf_counter()
    with decoding.drawing(model.device):
        sequences = system.generate(model, ids, mask, **options)
    rows = sequences[:, ids.shape[1] :].cpu().numpy()  # waits for the device
    took = time.perf_counter() - start
    stopped = np.isin(rows, stops)
    ends = np.where(stopped.any(1), stopped.argmax(1), rows.shape[1])
    return [row[: end + 1].tolist() for row, end in zip(rows, ends, strict=True)], took


def answer_log_likelihoods(
    model: PreTrainedModel, system: System, batch: Sequence[AskedQuestion]
) -> list[Tensor]:
    """Per question the log-likelihoods [answer tokens] of its reference answer, in nats and fp32 (see `answer_scores`)."""
    return [log_likelihoods for log_likelihoods, _ in answer_scores(model, system, batch)]


def answer_scores(
    model: PreTrainedModel, system: System, batch: Sequence[AskedQuestion]
) -> list[tuple[Tensor, Tensor | None]]:
    """Per question the log-likelihoods [answer tokens] of its reference answer, and where all are recorded
    KL(teacher ‖ system) [answer tokens] over the recorded log-probabilities; in nats and fp32.

    The recorded ones are not renormalised: where they have less than all of the mass, the divergence is that part's.
    The vocabulary's logits exist for a chunk of answer tokens at a time. ``model`` must be inside `reads_prefixes`.
    """
    device = model.device
    lengths = [len(one.answer_ids) for one in batch]
    targets = Targets(
        token_ids=torch.tensor([token for one in batch for token in one.answer_ids], device=device)
    )
    hidden, head = answer_hidden(model, system, batch), LanguageHead(model)
    tops = [one.recorded.top_logprobs for one in batch if one.recorded is not None]
    known = [top for top in tops if top is not None]
    if len(known) < len(batch):
        _, _, nll = chunked_loss(hidden, targets, NextToken(), head)
        return [(part, None) for part in (-nll).split(lengths)]
    most = max(top.shape[1] for top in known)
    ids, logprobs = (np.concatenate(side) for side in zip(*(top.dense(most) for top in known), strict=True))
    targets.top_ids = torch.from_numpy(ids).long().to(device)
    targets.top_logprobs = torch.from_numpy(logprobs).to(device)
    _, cross_entropy, nll = chunked_loss(hidden, targets, TopKDistillation(), head)
    shares = targets.top_logprobs.exp()
    divergences = cross_entropy + torch.xlogy(shares, shares).sum(1)
    return list(zip((-nll).split(lengths), divergences.split(lengths), strict=True))


def answer_hidden(model: PreTrainedModel, system: System, batch: Sequence[AskedQuestion]) -> Tensor:
    """Final hidden states [answer tokens of all questions, width] from which the answers' tokens are predicted."""
    # The last answer token is predicted, and predicts nothing.
    sequences = [one.prompt_ids + one.answer_ids[:-1] for one in batch]
    ends = accumulate(len(sequence) for sequence in sequences)
    rows = [torch.arange(end - len(one.answer_ids), end) for one, end in zip(batch, ends, strict=True)]
    return system.hidden_states(model, sequences)[torch.cat(rows).to(model.device)]


def _processes(split: bool) -> tuple[int, int]:
    """Rank and number of the processes that share the questions."""
    distributed = torch.distributed
    if not (split and distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _gathered(found: dict[int, Reply], world_size: int) -> dict[int, Reply]:
    parts: list[dict[int, Reply]] = [{} for _ in range(world_size)]
    torch.distributed.all_gather_object(parts, found)
    return {index: reply for part in parts for index, reply in part.items()}


@contextmanager
def eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Inside the ``with``, no part of the model is in training mode; afterwards each is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
