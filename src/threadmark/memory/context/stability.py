"""Whether a prompt begins like the thread's last one: a fingerprint of all that is stable in it.

Beside it, an outline is kept of what stands before the history, piece by piece, and of which messages were
shown: so that a prompt which begins otherwise can tell how much of it a provider still finds in its cache.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from ..._types import FilePart, Message, StepPart, TextPart


def fingerprint(instructions: str, stable: Sequence[Message], before: str) -> tuple[str, int | None]:
    """The fingerprint of the stable part, and how many of its messages are the one `before`; `None`: it is
    not how this one begins.

    It is made of the texts themselves each time, a millisecond for a megabyte, so no change of a stored
    message can go unseen.
    """
    number, _, wanted = before.partition(":")
    count = int(number) if number.isdecimal() and len(number) < 10 else len(stable) + 1
    digest = hashlib.blake2b(_framed(instructions).encode("utf-8", "surrogatepass"), digest_size=12)
    same = None
    done = 0
    if count <= len(stable):
        digest.update(_bytes(stable[:count]))
        done = count
        same = count if digest.hexdigest() == wanted else None
    digest.update(_bytes(stable[done:]))
    return f"{len(stable)}:{digest.hexdigest()}", same


_MARK = 8
_MOST_MARKS = 256


@dataclass(frozen=True, slots=True)
class Outline:
    """A mark for each piece of text before the history, and up to which seq its messages were shown."""

    marks: tuple[str, ...] = ()
    end: int = 0

    @classmethod
    def of(cls, pieces: Sequence[str], end: int) -> Self:
        """The outline of these pieces, of the first 256 of them."""
        marks = [
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_MARK // 2).hexdigest()
            for text in pieces[:_MOST_MARKS]
        ]
        return cls(tuple(marks), end)

    @classmethod
    def read(cls, text: str) -> Self:
        """What `str` gave; of anything else, an outline that matches nothing."""
        end, _, marks = text.partition(":")
        if not (end.isascii() and end.isdecimal() and len(end) < 20):
            return cls()
        return cls(tuple([marks[at : at + _MARK] for at in range(0, len(marks), _MARK)]), int(end))

    def __str__(self) -> str:
        return f"{self.end}:{''.join(self.marks)}"

    def begins(self, other: Outline) -> int:
        """With how many pieces both begin."""
        pairs = zip(self.marks, other.marks, strict=False)
        return next(
            (at for at, (one, another) in enumerate(pairs) if one != another),
            min(len(self.marks), len(other.marks)),
        )

    def common(self, other: Outline) -> list[int]:
        """Places of the pieces that the other has too, wherever they stand there."""
        there = Counter(other.marks)
        found = []
        for place, mark in enumerate(self.marks):
            if there[mark]:
                there[mark] -= 1
                found.append(place)
        return found


def _bytes(messages: Sequence[Message]) -> bytes:
    pieces: list[str] = []
    for message in messages:
        pieces.append(f"\n{message.role}{len(message.parts)}")
        for part in message.parts:
            kind = type(part)
            if kind is TextPart and part.provider is None:  # type: ignore[union-attr]
                pieces.append(_framed(part.text))  # type: ignore[union-attr]
            elif kind is StepPart:
                # Of a step, providers get back only what is theirs.
                pieces.append("s" if part.provider is None else f"s{_framed(repr(part.provider))}")  # type: ignore[union-attr]
            elif isinstance(part, FilePart) and part.data is not None:
                data = hashlib.blake2b(part.data, digest_size=16).hexdigest()
                pieces.append(f"f{data}{_framed(repr(replace(part, data=b'')))}")
            else:
                pieces.append(f"p{_framed(repr(part))}")
    return "".join(pieces).encode("utf-8", "surrogatepass")


def _framed(text: str) -> str:
    """`text` with its length, so that no text can pass for another followed by something."""
    return f"{len(text)}:{text}"
