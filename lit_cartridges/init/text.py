"""Start from a text of one's own choice."""

from __future__ import annotations

from pathlib import Path

from lit_cartridges.errors import SettingError
from lit_cartridges.init.init_strategy import InitContext
from lit_cartridges.init.token_strategy import TokenStrategy, repeated
from lit_cartridges.settings import ReadFileName, checked
from lit_cartridges.text import text_ids


class Text(TokenStrategy):
    """Prefill of the first tokens of another text: the paper's control, where it is unrelated (arXiv 2506.06266, §5.2).

    A text shorter than the cartridge is read again from its start.

    Args:
        path: a text file in UTF-8.
        text: the text itself, instead of a file.

    Raises:
        ValueError: neither or both are given, or there is no text there.
    """

    @checked
    def __init__(self, *, path: ReadFileName | None = None, text: str | None = None) -> None:
        if (path is None) == (text is None):
            raise SettingError("give one of them", {"init.path": path, "init.text": text})
        try:
            self.text = Path(path).read_text(encoding="utf-8") if path is not None else str(text)
        except UnicodeDecodeError as error:
            raise ValueError(f"init.path={path!r} is not text in UTF-8 ({error}); convert it") from error
        self.path = path
        if not self.text.strip():
            raise ValueError(f"init.{'text' if path is None else f'path={path!r}'} is empty; give some text")

    def body_ids(self, context: InitContext, num_tokens: int) -> list[int]:
        """See `TokenStrategy.body_ids`."""
        ids = text_ids(context.renderer_for(self).tokenizer, self.text)
        return repeated(ids, num_tokens, of=f"init={self.describe()}")

    def describe(self) -> str:
        """The class and the file."""
        return f"Text({self.path})" if self.path is not None else "Text"
