"""A filter that can match nothing is a mistake, and is said to be one: never an empty answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from threadmark import Memory, Message, NotFoundError, ValidationError
from threadmark.memory.resource import Resource

pytestmark = pytest.mark.anyio

MISTAKES: dict[str, Callable[[Resource], Awaitable[Any]]] = {
    "role of an owner's messages": lambda u: u.messages(roles=["assitant"]),
    "role of a thread's messages": lambda u: u.thread("t").messages(roles=["usr"]),
    "one string for roles": lambda u: u.thread("t").messages(roles="user"),
    "role in recall": lambda u: u.recall("tea", roles="user"),
    "no list of roles": lambda u: u.matches("tea", roles=5),  # type: ignore[arg-type]
    "status of an owner's runs": lambda u: u.runs(status="done"),  # type: ignore[arg-type]
    "status of a thread's runs": lambda u: u.thread("t").runs(status=""),  # type: ignore[arg-type]
    "kind of observation": lambda u: u.observations.list(kinds=["rules"]),
    "one string for kinds": lambda u: u.observations.list(kinds="rule"),
    "priority": lambda u: u.thread("t").observations.list(priorities=["urgent"]),
    "empty speaker": lambda u: u.observations.list(speaker=""),
    "observation by a number": lambda u: u.observations.get(5),  # type: ignore[arg-type]
    "sources of nothing": lambda u: u.observations.sources(""),
    "undo of nothing": lambda u: u.thread("t").observations.undo(None),  # type: ignore[arg-type]
    "one string for ids to clone": lambda u: u.thread("t").clone(message_ids="m1"),
}


@pytest.mark.parametrize("what", MISTAKES)
async def test_a_filter_that_matches_nothing_is_refused(what: str) -> None:
    """An unknown role, status, kind or priority, a string for a list, or what is no id: `ValidationError`."""
    async with Memory("sqlite://") as memory:
        user = memory.resource("ana")
        await user.thread("t").save([Message.user("tea", id="m1")])
        with pytest.raises(ValidationError):
            await MISTAKES[what](user)


async def test_filters_that_can_match_are_taken() -> None:
    """Each known role, status, kind and priority, given as any sequence."""
    async with Memory("sqlite://") as memory:
        user = memory.resource("ana")
        await user.thread("t").save([Message.user("tea", id="m1"), Message.assistant("yes", id="m2")])
        assert [m.id for m in await user.messages(roles=("assistant",))] == ["m2"]
        assert [m.id for m in await user.thread("t").messages(roles=["user", "assistant"])] == ["m1", "m2"]
        assert (await user.runs(status="suspended")).total == 0
        assert (await user.observations.list(kinds=["none", "rule"], priorities=["low"])).total == 0
        assert await user.observations.get("o1") is None
        with pytest.raises(NotFoundError):
            await user.observations.sources("o1")
