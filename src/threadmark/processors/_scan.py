"""Redacting matches of patterns in a text that comes in pieces, with the same result however it is cut."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from .patterns import Pattern

Span: TypeAlias = tuple[int, int]

BATCH = 32
"""Characters worth looking at: fewer wait for more, so that short pieces cost little."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """Patterns, compiled. `reach` is how far ahead a decision can look; `None` is the whole text."""

    patterns: tuple[tuple[Pattern, re.Pattern[str], re.Pattern[str] | None], ...]
    reach: int | None

    @classmethod
    def of(cls, patterns: Sequence[Pattern]) -> Matcher:
        lengths = [pattern.max_length for pattern in patterns]
        return cls(
            tuple(
                [
                    (pattern, pattern.compile(), re.compile(f"{pattern.tail}+") if pattern.tail else None)
                    for pattern in patterns
                ]
            ),
            None if None in lengths else max((length for length in lengths if length), default=0) + 1,
        )

    def first(self, text: str, position: int, known: list[Span | None]) -> tuple[Span, int] | None:
        """The first match from `position` on, of the first of the patterns that match there, and which.

        `known` are the patterns' next matches as found before in this text; it is brought up to date, so that
        no pattern looks at a stretch of text twice.
        """
        best: tuple[Span, int] | None = None
        for index in range(len(self.patterns)):
            span = known[index]
            if span is not None and span[0] < position:
                span = known[index] = self._next(index, text, position)
            if span is not None and (best is None or span[0] < best[0][0]):
                best = (span, index)
        return best

    def _next(self, index: int, text: str, position: int) -> Span | None:
        pattern, regex, _ = self.patterns[index]
        while (match := regex.search(text, position)) is not None:
            end = match.end() if pattern.check is None else pattern.check(match)
            if end is not None and end > match.start():
                return match.start(), end
            position = match.start() + 1
        return None


@dataclass(slots=True)
class Scanner:
    """Redacts one text. `found` counts matches by the pattern's name."""

    matcher: Matcher
    replace: Callable[[str], str]
    found: Counter[str] = field(default_factory=Counter)
    _text: str = ""  # what came and is still needed, with some context before `_at`
    _at: int = 0  # up to here it is decided
    _tail: re.Pattern[str] | None = None  # of the match that ended at `_at`

    def feed(self, text: str, *, last: bool) -> str:
        """More of the text. Returns what is decided of it, redacted; the rest waits."""
        self._text += text
        reach = self.matcher.reach
        end = len(self._text)
        if not last:
            if reach is None:
                return ""
            # A match that begins before `end` would be seen whole.
            end -= reach
            if end - self._at < BATCH:
                return ""
        out: list[str] = []
        known: list[Span | None] = [(-1, -1)] * len(self.matcher.patterns)
        while self._at < end:
            if self._tail is not None:
                rest = self._tail.match(self._text, self._at)
                self._at = self._at if rest is None else rest.end()
                if self._at == len(self._text):
                    break  # and more of it may come
                self._tail = None
                continue
            match = self.matcher.first(self._text, self._at, known)
            if match is None or match[0][0] >= end:
                out.append(self._text[self._at : end])
                self._at = end
                break
            (start, stop), index = match
            pattern, _, self._tail = self.matcher.patterns[index]
            self.found[pattern.name] += 1
            out += (self._text[self._at : start], self.replace(pattern.name))
            self._at = stop
        if reach is not None and self._at > 2 * reach:
            # Lookbehinds are bounded as well: keep as much context as a pattern can reach.
            self._text = self._text[self._at - reach :]
            self._at = reach
        return "".join(out)
