"""Short ways to write down requests, with times from a fake clock and ids that count up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any

from ..._types import Json, Message
from ...stores.base import (
    CloneRequest,
    MessageChange,
    NewThread,
    RunWrite,
    ThreadChange,
    TurnWrite,
    WorkingMemoryWrite,
)
from .._clock import FakeClock


class Builders:
    """Makes requests. `clock` moves one second with each request that carries a time."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = FakeClock(step=1.0) if clock is None else clock
        self._count = count(1)

    def new_id(self) -> str:
        """An id never given before by this object: "id-1", "id-2", ..."""
        return f"id-{next(self._count)}"

    def thread(
        self,
        id: str,
        *,
        title: str = "",
        metadata: Mapping[str, Json] | None = None,
        at: datetime | None = None,
    ) -> NewThread:
        """A thread to create, at `at` or by the clock."""
        return NewThread(
            id=id, title=title, metadata=metadata or {}, created_at=self.clock() if at is None else at
        )

    def message(self, text: str = "hello", **fields: Any) -> Message:
        """A user's message with a counted id; `fields` are those of `Message`."""
        fields.setdefault("id", self.new_id())
        if "parts" not in fields:
            fields["text"] = text
        return Message(**fields)

    def messages(self, number: int, **fields: Any) -> list[Message]:
        """`number` messages with the texts "1", "2", ..., by turns of the user and the assistant."""
        return [
            self.message(str(n), **{"role": "user" if n % 2 else "assistant", **fields})
            for n in range(1, number + 1)
        ]

    def turn(
        self,
        thread_id: str,
        messages: Sequence[Message | str] = (),
        *,
        at: datetime | None = None,
        **rest: Any,
    ) -> TurnWrite:
        """A turn with these messages (or texts), at `at` or by the clock; `rest` as in `TurnWrite`."""
        return TurnWrite(
            thread_id=thread_id,
            now=self.clock() if at is None else at,
            messages=tuple([self.message(m) if isinstance(m, str) else m for m in messages]),
            **rest,
        )

    def run(self, id: str, **fields: Any) -> RunWrite:
        """A run to insert, running unless `fields` (those of `RunWrite`) say otherwise."""
        fields.setdefault("agent", "support")
        fields.setdefault("status", "running")
        fields.setdefault("started_at", self.clock())
        return RunWrite(id=id, **fields)

    def remember(self, content: str, *, if_version: int = 0, **fields: Any) -> WorkingMemoryWrite:
        """A version of working memory after `if_version`; `fields` as in `WorkingMemoryWrite`."""
        fields.setdefault("changed_by", "agent")
        return WorkingMemoryWrite(content=content, if_version=if_version, **fields)

    def change(self, *, at: datetime | None = None, **fields: Any) -> ThreadChange:
        """A change of a thread, at `at` or by the clock; `fields` as in `ThreadChange`."""
        return ThreadChange(now=self.clock() if at is None else at, **fields)

    def edit(self, id: str, **fields: Any) -> MessageChange:
        """A change of a message; `fields` as in `MessageChange`."""
        return MessageChange(id=id, **fields)

    def clone(self, id: str, *, at: datetime | None = None, **fields: Any) -> CloneRequest:
        """A request for a clone called `id`; `fields` as in `CloneRequest`."""
        fields.setdefault("new_id", self.new_id)
        return CloneRequest(id=id, now=self.clock() if at is None else at, **fields)
