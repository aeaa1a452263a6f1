"""Redacting matches of patterns in a text that comes in pieces, with the same result however it is cut."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .patterns import Pattern

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

    def first(self, text: str, position: int) -> tuple[int, int, int] | None:
        """The first match from `position` on, of the first pattern of those that match there: start, end, and
        which pattern."""
        best: tuple[int, int, int] | None = None
        for index, (pattern, regex, _) in enumerate(self.patterns):
            at = position
            while (match := regex.search(text, at)) is not None:
                if best is not None and match.start() >= best[0]:
                    break
                end = match.end() if pattern.check is None else pattern.check(match)
                if end is not None and end > match.start():
                    best = (match.start(), end, index)
                    break
                at = match.start() + 1
        return best


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
        while self._at < end:
            if self._tail is not None:
                rest = self._tail.match(self._text, self._at)
                self._at = self._at if rest is None else rest.end()
                if self._at == len(self._text):
                    break  # and more of it may come
                self._tail = None
                continue
            match = self.matcher.first(self._text, self._at)
            if match is None or match[0] >= end:
                out.append(self._text[self._at : end])
                self._at = end
                break
            start, stop, index = match
            pattern, _, self._tail = self.matcher.patterns[index]
            self.found[pattern.name] += 1
            out += (self._text[self._at : start], self.replace(pattern.name))
            self._at = stop
        if reach is not None and self._at > 2 * reach:
            # Lookbehinds are bounded as well: keep as much context as a pattern can reach.
            self._text = self._text[self._at - reach :]
            self._at = reach
        return "".join(out)
