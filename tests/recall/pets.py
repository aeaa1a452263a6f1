"""Messages of two owners about pets, and an embedder that knows dogs and cats."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from threadmark import Memory, Message, Speaker

DAY = datetime(2026, 3, 2, tzinfo=UTC)
NUMBERS = itertools.count()
ANA = Speaker(id="a1", name="Ana")
BEN = Speaker(id="b1", name="Ben")


class Animals:
    """An embedder that knows three things: dogs, cats, and everything else. What it does can be broken."""

    dimension: int | None = 3

    def __init__(self, name: str = "animals") -> None:
        # A process remembers the vectors of recent texts by the embedder's name.
        self.name = f"{name}-{next(NUMBERS)}"
        self.broken: Any = None
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Any:
        self.texts += texts
        if callable(self.broken):
            return await self.broken(texts)
        return [
            [float("dog" in t or "puppy" in t), float("cat" in t or "kitten" in t), 0.1 + ("zero" in t) * 0]
            for t in map(str.lower, texts)
        ]


async def fail(texts: Sequence[str]) -> Any:
    raise ConnectionError("the embedder is down")


def said(text: str, who: Speaker | None = None, day: int = 0, **more: Any) -> Message:
    return Message.user(text, speaker=who, created_at=DAY + timedelta(days=day), **more)


async def fill(memory: Memory) -> None:
    ana = memory.resource("ana")
    await ana.thread("pets").save(
        [
            said("My puppy is called Biscuit.", ANA, id="m1"),
            Message.assistant("What a name!", id="m2", created_at=DAY),
            said("The vet says he is fine.", BEN, 1, id="m3"),
            said("We planted tulips.", ANA, 2, id="m4", metadata={"kind": "garden"}),
        ]
    )
    await ana.thread("work").save([said("The deadline of the project is Friday.", ANA, 30, id="w1")])
    await memory.resource("eve").thread("pets").save([said("Eve's puppy is called Rex.", id="e1")])
