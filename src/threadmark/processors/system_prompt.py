"""Takes the agent's instructions out of its answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from .._errors import ConfigurationError
from .._ids import check_count
from .base import OnViolation, OutputDelta, Processor, ProcessorContext

_WORD = re.compile(r"\w+")


class SystemPromptScrubber(Processor):
    """Redacts, or blocks, answers that repeat the instructions word for word.

    What counts is a run of at least `words` words that stands like this in the instructions or in `protect`,
    whatever the case, spacing and punctuation between them. A text that is shorter is looked for as a
    whole, if it has at least four words. No model is asked; a paraphrase or a translation is not found.

    A streamed answer is held back by `words` words.
    """

    def __init__(
        self,
        *,
        words: int = 8,
        action: Literal["redact", "block"] = "redact",
        replacement: str = "[redacted]",
        protect: Sequence[str] = (),
        retry: bool = False,
        on_violation: OnViolation | None = None,
    ) -> None:
        if action not in ("redact", "block"):
            raise ConfigurationError(f"action must be 'redact' or 'block', not {action!r}")
        if isinstance(protect, str):
            raise ConfigurationError("protect must be a sequence of texts; write [text]")
        self.words = check_count("words", words, least=4)
        self.action = action
        self.replacement = replacement
        self.protect = tuple(protect)
        self.retry = retry
        self.streams = action == "redact"
        self.on_violation = on_violation

    async def process_output_stream(self, delta: OutputDelta, ctx: ProcessorContext) -> str:
        key = (ctx.step, ctx.retries, delta.part)
        scrubber: _Scrubber | None = ctx.state.get(key)
        if scrubber is None:
            scrubber = ctx.state[key] = _Scrubber(self._runs(ctx), self.replacement)
        text = scrubber.feed(delta.text, last=delta.last)
        if delta.last:
            del ctx.state[key]
            if scrubber.found:
                if self.action == "block":
                    ctx.abort("the answer repeats the instructions", retry=self.retry)
                ctx.report("the answer repeats the instructions", metadata={"passages": scrubber.found})
        return text

    def _runs(self, ctx: ProcessorContext) -> frozenset[tuple[str, ...]]:
        known: tuple[str, frozenset[tuple[str, ...]]] | None = ctx.state.get("runs")
        if known is not None and known[0] == ctx.instructions:
            return known[1]
        runs: set[tuple[str, ...]] = set()
        for text in (ctx.instructions, *self.protect):
            words = [_fold(match.group()) for match in _WORD.finditer(text)]
            length = min(self.words, len(words))
            if length >= 4:
                runs.update(tuple(words[i : i + length]) for i in range(len(words) - length + 1))
        ctx.state["runs"] = (ctx.instructions, frozenset(runs))
        return ctx.state["runs"][1]  # type: ignore[no-any-return]


@dataclass(slots=True)
class _Word:
    before: str
    text: str
    hidden: bool = False


@dataclass(slots=True)
class _Scrubber:
    """Hides runs of words in a text that comes in pieces; the result does not depend on the pieces."""

    runs: frozenset[tuple[str, ...]]
    replacement: str
    found: int = 0
    _rest: str = ""  # not yet known to be whole words
    _words: list[_Word] = field(default_factory=list)  # not yet released
    _folded: list[str] = field(default_factory=list)  # the last words, whether released or not
    _was_hidden: bool = False

    def feed(self, text: str, *, last: bool) -> str:
        if not self.runs:
            return text
        self._rest += text
        lengths = sorted({len(run) for run in self.runs})
        at = 0
        for match in _WORD.finditer(self._rest):
            if match.end() == len(self._rest) and not last:
                break  # the word may go on
            self._words.append(_Word(self._rest[at : match.start()], match.group()))
            self._folded = [*self._folded[-lengths[-1] + 1 :], _fold(match.group())]
            at = match.end()
            for length in lengths:
                if tuple(self._folded[-length:]) in self.runs:
                    for word in self._words[-length:]:
                        word.hidden = True
        self._rest = self._rest[at:]
        # A word's fate is sealed when no run that begins with it can still become whole.
        ready = len(self._words) if last else max(0, len(self._words) - lengths[-1] + 1)
        out = [self._release(word) for word in self._words[:ready]]
        del self._words[:ready]
        if last:
            out.append(self._rest)
            self._rest = ""
        return "".join(out)

    def _release(self, word: _Word) -> str:
        follows, self._was_hidden = self._was_hidden, word.hidden
        if not word.hidden:
            return word.before + word.text
        if follows:
            return ""
        self.found += 1
        return word.before + self.replacement


def _fold(word: str) -> str:
    return word.casefold()
