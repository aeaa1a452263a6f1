"""What happened in a soak, as its users saw it: what was acknowledged, decided, executed and taken away."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from dataclasses import dataclass, field

MARKS = re.compile(r"zq[bcdfghjklmnpqrstvwxz]{10}x")
"""The word that everything of one household has in it, and nothing of anybody else."""


def mark_of(chance: random.Random) -> str:
    """A word that no text has by accident, and that no stemmer shortens."""
    return f"zq{''.join(chance.choices('bcdfghjklmnpqrstvwz', k=10))}x"


@dataclass(slots=True)
class Said:
    """A user's message whose call has returned, between two moments of the ledger's clock."""

    owner: str
    thread: str
    worker: int
    text: str
    began: int
    ended: int
    speaker: str | None = None
    answer: tuple[str, str] | None = None
    """Id and text of the final answer."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Something that was taken away: an owner, a thread, what a speaker said in it, or one text."""

    owner: str
    thread: str | None
    began: int
    ended: int
    speaker: str | None = None
    text: str | None = None

    def takes(self, said: Said) -> bool:
        """Whether it is about the message, if that was there."""
        return (
            self.owner == said.owner
            and self.thread in (None, said.thread)
            and self.speaker in (None, said.speaker)
            and self.text in (None, said.text)
        )


@dataclass(slots=True)
class Ledger:
    """The record. `executed` counts orders by their number, each of which a model has asked for once."""

    said: list[Said] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Owner and text of every message that was sent, stored or not."""
    stopped: set[str] = field(default_factory=set)
    """Texts that a processor has stopped."""
    executed: Counter[str] = field(default_factory=Counter)
    approved: set[str] = field(default_factory=set)
    """Orders that somebody has tried to approve."""
    declined: set[str] = field(default_factory=set)
    steps: Counter[str] = field(default_factory=Counter)
    """Steps of workflows that may run once."""
    wrong: list[str] = field(default_factory=list)
    """What was seen to be wrong while it went on."""
    errors: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    _clock: itertools.count[int] = field(default_factory=itertools.count)

    def now(self) -> int:
        """A moment after all earlier ones."""
        return next(self._clock)

    def moved(self, owner: str, thread: str, to: str) -> None:
        """A thread is somebody else's."""
        for said in self.said:
            if (said.owner, said.thread) == (owner, thread):
                said.owner = to
