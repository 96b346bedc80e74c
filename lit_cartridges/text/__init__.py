"""Text as token ids: only a chat template writes special tokens; whatever anybody else writes stays text."""

from lit_cartridges.text.control_tokens import control_tokens
from lit_cartridges.text.encoder import Markup, TextEncoder, TextError, encoder_of, text_ids

__all__ = ["Markup", "TextEncoder", "TextError", "control_tokens", "encoder_of", "text_ids"]
