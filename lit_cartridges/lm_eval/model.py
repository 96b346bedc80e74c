"""The model ``lit_cartridges`` of lm-evaluation-harness: a frozen model with one cartridge in front, several composed, or none.

The harness's requests become token ids as in training and serving: a chat by `ChatRenderer` from the place of its system message,
a text as it goes on from the cartridge. They are read as `lit_cartridges.evals` reads its questions (`System`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lit_cartridges.attention import reads_prefixes
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cartridge_files.facts import trained_prompts
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.errors import SettingError, called
from lit_cartridges.evals.systems.cartridge import of_cartridge
from lit_cartridges.evals.systems.no_context import no_context
from lit_cartridges.evals.systems.system import System, context_limit
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.generation import greedy, left_padded, pad_token_id
from lit_cartridges.lm_eval.chat import Chat
from lit_cartridges.lm_eval.stopping import HoldsText
from lit_cartridges.losses import LanguageHead, fp32_rows
from lit_cartridges.models import hub_options, load_model, load_tokenizer
from lit_cartridges.models.base_weights import other_weights, with_recorded
from lit_cartridges.runs.steady_bar import SteadyBar
from lit_cartridges.settings import ChunkTemplate, DeviceName, DTypeName, PositiveInt, checked
from lit_cartridges.settings.model_checks import DeviceMap
from lit_cartridges.terminal import printable_line
from lit_cartridges.text import text_ids

Scored = tuple[float, bool]
_MAX_LENGTH = 2048  # where neither the model nor the user names a limit, as the harness's own models have it


@register_model("lit_cartridges")
class CartridgeLM(TemplateLM):
    """See the module.

    Deviations from the harness's ``hf``: a prompt that is too long is refused, and not cut; log-probabilities are fp32; what
    begins a text is the tokenizer's opening token without a cartridge, and nothing behind one.
    """

    @checked
    def __init__(
        self,
        *,
        pretrained: str | None = None,
        cartridge: str | None = None,
        batch_size: str | int = 8,
        max_length: PositiveInt | None = None,
        max_gen_toks: PositiveInt = 256,
        system_template: ChunkTemplate | None = None,
        enable_thinking: bool | None = None,
        dtype: DTypeName | None = None,
        device: DeviceName = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        device_map: DeviceMap | None = None,
    ) -> None:
        """
        Args:
            pretrained: the frozen model; by default the one that the cartridge names.
            cartridge: folder or Hub repository; several, with ``+`` between them, are composed; None for the bare model.
            batch_size: requests in one forward call.
            max_length: positions that cartridge, prompt and reply may take together, if fewer than the model has.
            max_gen_toks: of a reply, where the task does not say.
            system_template: the system message of the training, whose end stands behind a cartridge; by default the cartridge's.
            enable_thinking: as in the training; by default the cartridge's.
            dtype: of the model: "auto" (as in its files), "float32", "bfloat16", "float16"; by default the cartridge's.
            device: "auto", "cpu", "cuda", "cuda:1", …
            revision: branch, tag or commit of the model on the Hub; by default the cartridge's.
            trust_remote_code: run code that comes with the model.
            device_map: "auto": accelerate spreads the model.
        """
        super().__init__()
        self.batch_size = _requests(batch_size)
        self._default_new_tokens = max_gen_toks
        read = [] if cartridge is None else _read(cartridge)
        given = {
            "dtype": dtype,
            "revision": revision,
            "trust_remote_code": trust_remote_code,
            "device_map": device_map,
        }
        name, settings = with_recorded([one.provenance for one in read], pretrained, given)
        if name is None:
            raise SettingError("give the model, or a cartridge that names one", pretrained=pretrained)
        setting = "pretrained" if pretrained else "base_model of the cartridge"
        self.tokenizer = load_tokenizer(name, setting=setting, **hub_options(settings))
        own = {"system_template": system_template, "enable_thinking": enable_thinking}
        prompts = trained_prompts(*(one.provenance for one in read))
        prompts |= {key: value for key, value in own.items() if value is not None}
        self.renderer = ChatRenderer(self.tokenizer, **prompts)
        self.model = load_model(name, device=device, setting=setting, **settings)
        self._device = self.model.device
        self.system: System = no_context()
        if read:
            whole = Cartridge.compose(read)
            if difference := other_weights(whole, self.model):
                print(printable_line(f"warning: {difference}"), file=sys.stderr)
            self.system = of_cartridge("cartridge", whole, self.model)
        self.max_length = (
            context_limit(self.model.config, max_length) or _MAX_LENGTH
        ) - self.system.num_kv_tokens
        if self.max_length < 2:
            raise SettingError(
                f"leaves {self.max_length} positions behind the cartridge's {self.system.num_kv_tokens}; raise it, or take a "
                "shorter cartridge",
                max_length=max_length,
            )
        opening, bos = self.tokenizer("")["input_ids"], getattr(self.tokenizer, "bos_token_id", None)
        self._opening = [bos] if bos is not None and bos in opening and not self._behind else []

    @property
    def _behind(self) -> bool:
        return self.system.num_kv_tokens > 0

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        ends = self.renderer.stop_token_ids(self.model.generation_config)
        return ends[0] if self.tokenizer.eos_token_id is None else int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What predicts the first token where a request has nothing in front of it."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests, which must not give `Chat`s to others, or others' texts to us."""
        return f"lit_cartridges__{self.tokenizer.name_or_path}".replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """See `Chat`; an answer that the task has begun is in it."""
        return Chat.of(chat_history)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """A text's token ids, from its beginning or as it goes on from the cartridge."""
        if isinstance(string, Chat):
            ids, begun = string.prompt(self.renderer, behind=self._behind)
            return ids + (self.renderer.answer_ids(begun) if begun else [])
        if self._behind or add_special_tokens is False:
            return self.renderer.encoder.following(string)
        return [*self._opening, *text_ids(self.tokenizer, string)]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not isinstance(context, Chat):
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        prompt, begun = context.prompt(self.renderer, behind=self._behind)
        lead = len(self.renderer.answer_ids(begun)) if begun else 0
        answer = self.renderer.answer_ids(begun + continuation)
        return prompt + answer[:lead], answer[lead:]

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[Scored]:
        """Sum of the continuation's log-probabilities in nats, and whether each of its tokens is the likeliest."""
        scored: dict[int, Scored] = {}
        longest_first = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        bar = SteadyBar(total=len(requests), disable=disable_tqdm, desc="log-likelihoods")
        with torch.no_grad(), reads_prefixes(self.model):
            for places in _parts(longest_first, self.batch_size):
                batch = [requests[place] for place in places]
                for place, (key, _context, _continuation), found in zip(
                    places, batch, self._scores(batch), strict=True
                ):
                    scored[place] = found
                    if key is not None:
                        self.cache_hook.add_partial("loglikelihood", key, found)
                bar.update(len(batch))
        bar.close()
        return [scored[place] for place in range(len(requests))]

    def _scores(self, batch: Sequence[tuple[Any, list[int], list[int]]]) -> list[Scored]:
        for _key, context, continuation in batch:
            if not continuation:
                raise EvalError(
                    "a continuation comes to no tokens; the task's doc_to_choice or doc_to_target is empty"
                )
            self._require_room(len(context) + len(continuation) - 1)
        sequences = [(context + continuation)[:-1] for _key, context, continuation in batch]
        hidden, head, end = self.system.hidden_states(self.model, sequences), LanguageHead(self.model), 0
        found = []
        for sequence, (_key, _context, continuation) in zip(sequences, batch, strict=True):
            end += len(sequence)
            rows = hidden[end - len(continuation) : end]
            total, likeliest = 0.0, True
            targets = torch.tensor(continuation, device=rows.device)
            size = fp32_rows(self.model.config.get_text_config().vocab_size)
            for part, wanted in zip(rows.split(size), targets.split(size), strict=True):
                logits = head(part)
                logprobs = logits.log_softmax(-1, dtype=torch.float32)
                total += logprobs.gather(1, wanted[:, None]).sum().item()
                likeliest &= torch.equal(logits.argmax(-1), wanted)
            found.append((total, likeliest))
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Sum of a text's log-probabilities in nats, in windows of ``max_length`` tokens, each behind the cartridge."""
        windows = [
            [
                (None, *make_disjoint_window(window))
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        scored = iter(self._loglikelihood_tokens([one for text in windows for one in text], disable_tqdm))
        totals = [sum(next(scored)[0] for _ in text) for text in windows]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Replies up to one of the texts in ``until``; greedy unless the task samples."""
        replies: dict[int, str] = {}
        asked = [(repr(request.args[1]), self.tok_encode(request.args[0])) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: (asked[i][0], -len(asked[i][1])))
        bar = SteadyBar(total=len(requests), disable=disable_tqdm, desc="replies")
        for _settings, alike in groupby(order, key=lambda i: asked[i][0]):
            for places in _parts(list(alike), self.batch_size):
                prompt, settings = requests[places[0]].args
                ids, chat = [asked[place][1] for place in places], isinstance(prompt, Chat)
                for place, text in zip(places, self._replies(ids, settings, chat=chat), strict=True):
                    replies[place] = text
                    self.cache_hook.add_partial("generate_until", requests[place].args, text)
                bar.update(len(places))
        bar.close()
        return [replies[place] for place in range(len(requests))]

    def _replies(self, prompts: Sequence[list[int]], settings: Mapping[str, Any], *, chat: bool) -> list[str]:
        wanted = normalize_gen_kwargs(dict(settings), self._default_new_tokens)
        until, new_tokens = [text for text in wanted.pop("until", ()) if text], wanted.pop("max_gen_toks")
        self._require_room(max(map(len, prompts)) + new_tokens)
        if not wanted["do_sample"]:
            wanted.pop("temperature", None)
        stops = self.renderer.stop_token_ids(self.model.generation_config)
        config = greedy(stops, new_tokens)
        if unknown := config.update(**wanted):
            raise SettingError("is nothing that generation knows; leave it out", gen_kwargs=unknown)
        ids, mask = left_padded(prompts, pad_token_id(stops), self.model.device)
        ends = [HoldsText(self.tokenizer, until, ids.shape[1])] if until else []
        rows = self.system.generate(self.model, ids, mask, generation_config=config, stopping_criteria=ends)
        texts = []
        for row in rows[:, ids.shape[1] :].tolist():
            end = next((place for place, token_id in enumerate(row) if token_id in stops), len(row))
            decoded = self.tokenizer.decode(row[:end], skip_special_tokens=True)
            text = self.renderer.text(torch.tensor(row[:end]).numpy()) if chat else str(decoded)
            texts.append(str(postprocess_generated_text(text, until, None)))
        return texts

    def _require_room(self, needed_tokens: int) -> None:
        if needed_tokens > self.max_length:
            raise EvalError(
                f"a request of {needed_tokens} tokens does not fit the {self.max_length} positions behind the cartridge; take "
                "fewer examples (--num_fewshot) or a shorter reply (--gen_kwargs max_gen_toks=…)"
            )


def _requests(batch_size: str | int) -> int:
    """As the harness gives it: a number, or its digits."""
    if not str(batch_size).isdigit() or int(batch_size) < 1:
        raise SettingError("must be a whole number, 1 or more", batch_size=batch_size)
    return int(batch_size)


def _read(cartridge: str) -> list[Cartridge]:
    paths = [cartridge] if Path(cartridge).exists() else cartridge.split("+")
    read = []
    for path in paths:
        with called("cartridge", path):
            read.append(Cartridge.from_pretrained(path))
    return read


def _parts(places: list[int], size: int) -> list[list[int]]:
    return [places[start : start + size] for start in range(0, len(places), size)]
