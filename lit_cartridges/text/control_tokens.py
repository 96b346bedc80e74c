"""Which names are tokens to a tokenizer and must stay text where a person or a corpus writes them."""

from __future__ import annotations

from typing import Any


def is_mistral_common(tokenizer: Any) -> bool:
    """Whether this is transformers' wrapper of mistral-common, which has no jinja template and no added tokens."""
    return any(base.__name__ == "MistralCommonBackend" for base in type(tokenizer).__mro__)


def has_chat_template(tokenizer: Any) -> bool:
    """Whether the tokenizer knows how its model writes chats."""
    return is_mistral_common(tokenizer) or bool(getattr(tokenizer, "chat_template", None))


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Name -> id of every special token, and of every other added token that is not an ordinary piece of text.

    Ordinary are white space (Gemma and GPT-NeoX add runs of it) and words of letters and digits that a vocabulary was
    extended by, unless the chat template writes them. Text that holds those must keep the ids that the model learnt.
    """
    found = dict(
        zip(
            tokenizer.all_special_tokens,
            tokenizer.convert_tokens_to_ids(list(tokenizer.all_special_tokens)),
            strict=True,
        )
    )
    if not is_mistral_common(tokenizer):
        template = str(getattr(tokenizer, "chat_template", None) or "")
        found |= {
            token.content: int(index)
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.special or not _is_plain(token.content) or token.content in template
        }
        found |= _user_defined(getattr(tokenizer, "sp_model", None))
    return {
        name: int(index)
        for name, index in found.items()
        if name.replace("▁", " ").strip() and not _is_letter(tokenizer, name, int(index))
    }


def _user_defined(model: Any) -> dict[str, int]:
    """SentencePiece's user-defined symbols, which it finds in any text. They score 0, and a model's best piece -0."""
    if model is None:
        return {}
    pieces = ((model.id_to_piece(index), index) for index in range(model.get_piece_size()))
    return {
        piece: index
        for piece, index in pieces
        if str(model.get_score(index)) == "0.0" and not _is_plain(piece) and not model.is_byte(index)
    }


def _is_plain(name: str) -> bool:
    return all(character.isalnum() or character.isspace() or character == "▁" for character in name)


def _is_letter(tokenizer: Any, name: str, index: int) -> bool:
    """A vocabulary's own character is also its only spelling: some tokenizers pad with "!"."""
    if len(name) > 1:
        return False
    core = getattr(tokenizer, "backend_tokenizer", None)
    return core is None or core.model.token_to_id(name) == index
