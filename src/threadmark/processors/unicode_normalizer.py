"""Makes text say what it shows: one form of Unicode, and no characters that nobody sees."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from .._errors import ConfigurationError
from .._types import Message, TextPart
from .base import OutputDelta, Processor, ProcessorContext

# Tags and the supplementary variation selectors can carry whole hidden messages.
_INVISIBLE = (
    "\u00ad\u034f\u180e\u200b\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\U000e0100-\U000e01ef"
)
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff"
_JOINERS = "\u200c\u200d"


class UnicodeNormalizer(Processor):
    """Normalises text in the input, in the answer, or in both, by where it is listed.

    Args:
        form: "NFC", "NFKC" (which also folds full-width letters, ligatures and the like), or `None`.
        invisible: Strip zero-width and other invisible characters, Unicode tags included.
        bidi: Strip marks that turn the direction of text.
        control: Strip control characters other than tab and line breaks, and lone surrogates.
        joiners: Strip zero-width joiners as well; emoji and several scripts need them.

    A message of which nothing is left stops the run.
    """

    streams = True

    def __init__(
        self,
        form: Literal["NFC", "NFKC"] | None = "NFC",
        *,
        invisible: bool = True,
        bidi: bool = True,
        control: bool = True,
        joiners: bool = False,
    ) -> None:
        if form not in ("NFC", "NFKC", None):
            raise ConfigurationError(f"form must be 'NFC', 'NFKC' or None, not {form!r}")
        self.form = form
        chosen = ((invisible, _INVISIBLE), (bidi, _BIDI), (control, _CONTROL), (joiners, _JOINERS))
        strip = "".join(characters for is_on, characters in chosen if is_on)
        self._strip = re.compile(f"[{strip}]+") if strip else None

    def normalize(self, text: str) -> str:
        """`text` as it should be."""
        if text.isascii() and text.isprintable():
            return text
        if self._strip is not None:
            text = self._strip.sub("", text)
        return text if self.form is None else unicodedata.normalize(self.form, text)

    async def process_input(self, messages: Sequence[Message], ctx: ProcessorContext) -> list[Message]:
        out = [
            message.replace(
                parts=[
                    TextPart(self.normalize(part.text), part.provider) if isinstance(part, TextPart) else part
                    for part in message.parts
                ]
            )
            for message in messages
        ]
        if not any(part.text if isinstance(part, TextPart) else True for m in out for part in m.parts):
            ctx.abort("the message holds no visible text")
        return out

    async def process_output_stream(self, delta: OutputDelta, ctx: ProcessorContext) -> str:
        key = (ctx.step, ctx.retries, delta.part)
        # Stripped first: what is taken out must not stand between characters that combine.
        held: str = ctx.state.pop(key, "")
        text = held + (delta.text if self._strip is None else self._strip.sub("", delta.text))
        if self.form is None or (text.isascii() and delta.last):
            return text
        end = len(text) if delta.last else _last_boundary(text)
        if end < len(text):
            ctx.state[key] = text[end:]
        return unicodedata.normalize(self.form, text[:end])


def _last_boundary(text: str) -> int:
    """Where `text` can be cut so that both sides are normalised alone, whatever follows; 0 if nowhere."""
    for index in range(len(text) - 1, 0, -1):
        if starts_anew(text[index]):
            return index
    return 0


def starts_anew(character: str) -> bool:
    """Whether `character` never combines with what stands before it, in any form."""
    if character < "\x80":
        return True
    first = unicodedata.normalize("NFKD", character)[0]
    return not (
        unicodedata.combining(first)
        or unicodedata.category(first)[0] == "M"
        or "\u1160" <= first <= "\u11ff"  # vowels and finals of Hangul
    )
