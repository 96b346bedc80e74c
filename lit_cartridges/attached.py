"""A model with a cartridge in front of it, to be used as a model: `Cartridge.attach(model, tokenizer)`.

    chat = cartridge.attach(model, tokenizer)
    chat.chat("Who signs for the tenant?")                        # or a list of {"role": …, "content": …}
    chat.generate(**tokenizer(prompt, return_tensors="pt"))       # as model.generate
    chat.pipeline(max_new_tokens=200)([{"role": "user", "content": "…"}])
    transformers.pipeline("text-generation", model=chat, tokenizer=tokenizer)

    chat = cartridge.attach(model, tokenizer, router=load_router("runs/pocket/cartridge"))
    chat.chat("Write a poem.").route                              # not about the corpus: answered without the cartridge

The chat template, the positions and the mask are seen to here. The cartridge stands in the place of the system message that
held the corpus, so that a chat goes on from there: with no beginning of its own and no other system message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import TextGenerationPipeline

from lit_cartridges.attention.prefixed_cache import left_padded
from lit_cartridges.attention.self_check import require_exact_reading
from lit_cartridges.cartridge_files.facts import trained_prompts
from lit_cartridges.conversations.conversation import Message
from lit_cartridges.conversations.renderer import ChatRenderer, RendererError
from lit_cartridges.generation import generate, pad_token_id
from lit_cartridges.models.position_limit import max_positions
from lit_cartridges.models.readable import unwrapped
from lit_cartridges.routing.embedding import QuestionEmbedder
from lit_cartridges.routing.question_span import shared_ends
from lit_cartridges.routing.router import Route, Router, best_route

if TYPE_CHECKING:
    from lit_cartridges.cartridge import Cartridge

ChatMessages = Sequence[Mapping[str, str]]


class Reply(str):
    """An answer's text; ``route`` says whether it was written with the cartridge, None where no router was asked."""

    route: Route | None = None


class AttachedCartridge:
    """Generates from ``cartridge``; for all else it is ``model``, whose attributes it has.

    Threads may share one, and several of one model may be used at the same time.

    Args:
        router: decides for every chat whether the cartridge is read; without one it always is. Of a composition the routers of
            all its parts (see `best_route`).

    Raises:
        ValueError: the cartridge was made for a model of another shape, or the model cannot read one exactly; a router of
            another model.
    """

    def __init__(
        self,
        cartridge: Cartridge,
        model: Any,
        tokenizer: Any,
        *,
        router: Router | Sequence[Router | None] | None = None,
        **renderer_options: Any,
    ) -> None:
        self.model, self.tokenizer, self.cartridge = unwrapped(model), tokenizer, cartridge
        cartridge.require_fit(self.model)
        require_exact_reading(self.model)
        self.renderer = ChatRenderer(tokenizer, **trained_prompts(cartridge.provenance) | renderer_options)
        self._bare_opening, _ = shared_ends(self.renderer.bare_prompt_ids)
        self._opening, _ = shared_ends(self.renderer.prompt_ids)
        self._routers = [router] if isinstance(router, Router | None) else list(router)
        for one in self._routers:
            if one is not None:
                one.require_model(self.model)
        self._embedder = QuestionEmbedder(self.model, self.renderer) if all(self._routers) else None

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # not there yet, while being copied or unpickled
            raise AttributeError(name)
        return getattr(self.model, name)

    # What looks at the class, as pipelines do, finds the model's.
    __class__ = property(lambda self: type(self.model))

    def generate(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **options: Any
    ) -> Any:
        """As ``model.generate``, behind the cartridge (see `generation.generate`).

        A prompt that is a chat from its beginning, as ``tokenizer.apply_chat_template`` makes it, is read as going on from the
        cartridge. A router decides of such chats, row by row; other prompts are read behind the cartridge.

        Raises:
            ValueError: a chat with a system message, in whose place the cartridge stands; rows that a router sends different
                ways, with an option that needs them in one call.
        """
        input_ids = options.pop("inputs", None) if input_ids is None else input_ids
        if input_ids is None:
            raise ValueError("input_ids is missing: a cartridge answers a prompt of at least one token")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        rows = [row[real.bool()].tolist() for row, real in zip(input_ids, attention_mask, strict=True)]
        bare = [route is not None and not route.reads for route in map(self._route_ids, rows)]
        if all(bare):
            return generate(self.model, None, input_ids, attention_mask, **options)
        if not any(bare):
            return self._behind(rows, input_ids, attention_mask, options)
        return self._each_way(bare, input_ids, attention_mask, options)

    def _behind(
        self, rows: list[list[int]], input_ids: Tensor, attention_mask: Tensor, options: dict[str, Any]
    ) -> Any:
        continued = [self._continued(row) for row in rows]
        if continued == rows:
            return generate(self.model, self.cartridge, input_ids, attention_mask, **options)
        ids, mask = left_padded(continued, int(input_ids[0, 0]), input_ids.device)
        out = generate(self.model, self.cartridge, ids, mask, **options)
        written = out if isinstance(out, Tensor) else out.sequences
        asked = input_ids.repeat_interleave(len(written) // len(input_ids), dim=0)
        whole = torch.cat([asked, written[:, ids.shape[1] :]], dim=1)
        if isinstance(out, Tensor):
            return whole
        out.sequences = whole
        return out

    def _each_way(
        self, bare: list[bool], input_ids: Tensor, attention_mask: Tensor, options: dict[str, Any]
    ) -> Tensor:
        """Rows in two calls, and their ends filled as ``model.generate`` fills them."""
        parts: dict[int, Tensor] = {}
        for way in (True, False):
            at = [i for i, one in enumerate(bare) if one is way]
            out = self.generate(input_ids[at], attention_mask[at], **options)
            if not isinstance(out, Tensor) or options.get("past_key_values") is not None:
                raise ValueError(
                    "return_dict_in_generate or past_key_values with rows of which a router sends some behind the cartridge and "
                    "others not; ask them in calls of their own (`route` says which)"
                )
            parts |= dict(zip(at, out.chunk(len(at)), strict=True))
        stops = self.renderer.stop_token_ids(self.model.generation_config)
        fill = options.get("pad_token_id")
        width = max(part.shape[1] for part in parts.values())
        rows = [
            pad(parts[i], (0, width - parts[i].shape[1]), value=pad_token_id(stops) if fill is None else fill)
            for i in range(len(bare))
        ]
        return torch.cat(rows)

    def route(self, prompt: str | ChatMessages) -> Route | None:
        """What the router says of a question, or of the last of a chat's messages; None without a router."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return self.route_messages(self.messages(messages))

    def route_messages(self, messages: Sequence[Message]) -> Route | None:
        """`route`, of a chat as the renderer takes it."""
        return None if self._embedder is None else self._route_ids(self.renderer.bare_prompt_ids(messages))

    def _route_ids(self, ids: list[int]) -> Route | None:
        embedder = self._embedder
        if embedder is None or not embedder.span.is_chat(ids):
            return None
        return best_route(self._routers, lambda layer: embedder.embed([ids], layer)[0])

    def chat(self, prompt: str | ChatMessages, *, max_new_tokens: int = 512, **options: Any) -> Reply:
        """The answer to a question, or to the last of a chat's messages, which go user, assistant, …, user.

        Args:
            max_new_tokens: of the answer; fewer where the model has no positions for as many.
            options: anything `model.generate` takes; greedy unless ``do_sample=True``.

        Raises:
            ValueError: other roles or another order; no position is left for an answer.
        """
        messages = self.messages([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
        route = self.route_messages(messages)
        behind = route is None or route.reads
        ids = self.reply_ids(messages, max_new_tokens=max_new_tokens, behind=behind, **options)
        reply = Reply(self.renderer.text(ids.numpy()))
        reply.route = route
        return reply

    def messages(self, messages: ChatMessages) -> list[Message]:
        """A chat as the renderer takes it."""
        return rendered_messages(self.renderer, messages)

    def reply_ids(
        self, messages: Sequence[Message], *, max_new_tokens: int, behind: bool = True, **options: Any
    ) -> Tensor:
        """int64 [tokens] of the answer to ``messages``, its end token included.

        Args:
            behind: the cartridge; False lets the model answer alone.
        """
        prompt = (self.renderer.prompt_ids if behind else self.renderer.bare_prompt_ids)(messages)
        room = self.room(messages, behind=behind)
        if room is not None and room < 1:
            positions = self.cartridge.num_tokens if behind else 0
            raise ValueError(
                f"the cartridge's {positions} positions and a chat of {len(prompt)} tokens leave no room for an "
                f"answer: the model has max_position_embeddings={max_positions(self.model.config)}; shorten the chat"
            )
        stops = list(self.renderer.stop_token_ids(self.model.generation_config))
        given = {
            "do_sample": False,
            "eos_token_id": stops,
            "pad_token_id": stops[0] if stops else 0,
            **options,
        }
        ids = torch.tensor([prompt], device=self.model.device)
        out = generate(
            self.model,
            self.cartridge if behind else None,
            ids,
            max_new_tokens=max_new_tokens if room is None else min(max_new_tokens, room),
            **given,
        )
        return (out if isinstance(out, Tensor) else out.sequences)[0, len(prompt) :].cpu()

    def room(self, messages: Sequence[Message], *, behind: bool = True) -> int | None:
        """Positions left for an answer to ``messages``; None where the model names no limit."""
        limit = max_positions(self.model.config)
        render = self.renderer.prompt_ids if behind else self.renderer.bare_prompt_ids
        used = (self.cartridge.num_tokens if behind else 0) + len(render(messages))
        return None if limit is None else limit - used

    def pipeline(self, **options: Any) -> TextGenerationPipeline:
        """Transformers' text-generation pipeline; ``options`` are its own, such as ``max_new_tokens``."""
        return _Pipeline(
            model=self, tokenizer=self.tokenizer, task="text-generation", device=self.model.device, **options
        )

    def _continued(self, ids: list[int]) -> list[int]:
        """A whole chat's tokens as they go on from the cartridge; other tokens as they are."""
        if self._bare_opening and ids[: len(self._bare_opening)] == self._bare_opening:
            return self._opening + ids[len(self._bare_opening) :]
        head = self.renderer.context_ids([])
        if len(head) > 1 and ids[: len(head)] == head:
            raise RendererError(
                "the chat has a system message, and the cartridge stands in its place; leave the system message out"
            )
        return ids


def rendered_messages(renderer: ChatRenderer, messages: ChatMessages) -> list[Message]:
    """A chat behind a cartridge as ``renderer`` takes it.

    Raises:
        RendererError: other roles than user and assistant.
    """
    known = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role not in ("user", "assistant") or not isinstance(content, str):
            raise RendererError(
                f"a message of role {role!r}: behind a cartridge, which stands in the place of the system message, a chat "
                "has user and assistant messages of text"
            )
        ids = renderer.answer_ids(content) if role == "assistant" else []
        known.append(Message(role, content, np.asarray(ids, dtype=np.int32)))
    return known


class _Pipeline(TextGenerationPipeline):
    """Renders chats as the cartridge's own renderer does, so that a special token's name in a message stays text."""

    def preprocess(self, prompt_text: Any, **options: Any) -> Any:  # type: ignore[override]
        chat = getattr(prompt_text, "messages", None)
        if chat is None:
            return super().preprocess(prompt_text, **options)
        attached: AttachedCartridge = self.model  # type: ignore[assignment]
        routed = attached._embedder is not None
        render = attached.renderer.bare_prompt_ids if routed else attached.renderer.prompt_ids
        ids = torch.tensor([render(attached.messages(chat))])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "prompt_text": prompt_text}
