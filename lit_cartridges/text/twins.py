"""Twins of a tokenizer that know its control tokens by other names, so that the old names are text to them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer


class NoTwin(ValueError):
    """A tokenizer that cannot be rebuilt with other names."""


class FastTwin:
    """The same pipeline with every control token renamed, in the added tokens and in the model's vocabulary.

    Ids, white space around the tokens and all that happens to text are the original's. Renaming in the vocabulary is
    needed where the model itself would make the token of its name: word level, Unigram (`</s>` has the best score
    there), BPE with merges that lead to it.

    Attributes:
        stand_ins: the new names. They are drawn afresh for each twin, so that no text can hold one on purpose.
    """

    def __init__(self, tokenizer: Any, control: Mapping[str, int]) -> None:
        """
        Raises:
            NoTwin: the renamed tokens would have other ids.
        """
        self.stand_ins = _stand_ins(control)
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        spec |= {"truncation": None, "padding": None, "post_processor": None}
        for token in spec["added_tokens"]:
            token["content"] = self.stand_ins.get(token["content"], token["content"])
        self._rename(spec["model"])
        self._core = Tokenizer.from_str(json.dumps(spec))
        for token in spec["added_tokens"]:
            if self._core.token_to_id(token["content"]) != token["id"]:
                raise NoTwin(
                    f"{type(tokenizer).__name__}: token {token['id']} would change its id by a new name"
                )

    def ids(self, text: str) -> list[int]:
        """Token ids, without special tokens around them."""
        return list(self._core.encode(text, add_special_tokens=False).ids)

    def _rename(self, model: dict[str, Any]) -> None:
        names = self.stand_ins
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(token, token): index for token, index in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        if "merges" in model:
            prefix = model.get("continuing_subword_prefix") or ""
            pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
            model["merges"] = [
                [left, right]
                for left, right in pairs
                if not {left, right, left + right.removeprefix(prefix)} & names.keys()
            ]


class SlowTwin:
    """The same for a tokenizer in Python: a shallow copy whose added tokens, trie and special names are renamed."""

    def __init__(self, tokenizer: Any, control: Mapping[str, int]) -> None:
        """
        Raises:
            NoTwin: a tokenizer that keeps its added tokens in a way of its own.
        """
        self.stand_ins = names = _stand_ins(control)
        kind = type(tokenizer)

        def tokenize(twin: Any, text: str, **options: Any) -> list[str]:
            # A model may know a name as a piece of its own (SentencePiece's user-defined symbols): it is spelt then.
            pieces = kind._tokenize(twin, text, **options)
            return [part for piece in pieces for part in (piece if piece in names else [piece])]

        renamed = {
            "_tokenize": tokenize,
            "all_special_tokens": property(lambda twin: [*names.values()]),
        }
        try:
            self._core: Any = object.__new__(type(kind.__name__, (kind,), renamed))
            self._core.__dict__.update(tokenizer.__dict__)
            added = {
                index: AddedToken(
                    names.get(token.content, token.content),
                    single_word=token.single_word,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=token.normalized,
                    special=token.special,
                )
                for index, token in tokenizer.added_tokens_decoder.items()
            }
            for name in control.keys() - tokenizer.added_tokens_encoder.keys():
                added[control[name]] = AddedToken(names[name], normalized=False, special=True)
            self._core.__dict__.update(
                _added_tokens_decoder=added,
                _added_tokens_encoder={token.content: index for index, token in added.items()},
                tokens_trie=type(tokenizer.tokens_trie)([token.content for token in added.values()]),
            )
        except (AttributeError, TypeError) as error:
            raise NoTwin(f"{kind.__name__} cannot be copied: {error}") from error

    def ids(self, text: str) -> list[int]:
        """Token ids, without special tokens around them."""
        return [int(i) for i in self._core.convert_tokens_to_ids(self._core.tokenize(text))]


def _stand_ins(control: Mapping[str, int]) -> dict[str, str]:
    key = secrets.token_hex(8)
    return {name: f"<{key}{number:04x}>" for number, name in enumerate(control)}
