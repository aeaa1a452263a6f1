"""What a behaviour is, and the list of all of them."""

from __future__ import annotations

import asyncio
import unittest
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._harness import Harness

CAPABILITIES = frozenset({"scrub", "reopen", "processes", "recall", "observations"})


class NotOffered(unittest.SkipTest):
    """The store does not declare the capability that a behaviour needs; pytest shows it as skipped."""


class Behaviour:
    """One sentence of the store contract, with the code that checks it.

    `await behaviour(harness)` returns if the store keeps it, raises an `AssertionError` that says what
    went wrong if it does not, and `NotOffered` if it rests on a capability that the store does not declare.
    """

    def __init__(
        self, name: str, needs: frozenset[str], function: Callable[[Harness], Awaitable[None]]
    ) -> None:
        self.name = name
        self.needs = needs
        self._function = function

    @property
    def topic(self) -> str:
        """The part of the name before the colon: the module it is in."""
        return self.name.partition(":")[0]

    async def __call__(self, harness: Harness) -> None:
        missing = sorted(self.needs - await harness.capabilities())
        if missing:
            raise NotOffered(f"{self.name}: the store does not offer {', '.join(map(repr, missing))}")
        try:
            # A store that waits for ever is the one failure that would otherwise never be told.
            async with asyncio.timeout(harness.timeout):
                await self._function(harness)
        except TimeoutError as error:
            raise AssertionError(f"{self.name}: not done after {harness.timeout:g} seconds") from error
        except unittest.SkipTest as error:
            raise AssertionError(f"{self.name}: skipped from within, which no store may: {error}") from error

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Behaviour {self.name!r}>"


_registered: dict[str, Behaviour] = {}


def behaviour(
    name: str, *, needs: str | Sequence[str] = ()
) -> Callable[[Callable[[Harness], Awaitable[None]]], Behaviour]:
    """Register the decorated `async def check(harness)` as the behaviour `name` ("topic: what holds").

    `needs` names the capabilities without which it is not offered, of `CAPABILITIES`.
    """
    if ": " not in name:
        raise ValueError(f"a behaviour is named 'topic: what holds', not {name!r}")
    needed = frozenset([needs] if isinstance(needs, str) else needs)
    if unknown := sorted(needed - CAPABILITIES):
        raise ValueError(f"behaviour {name!r} needs the unknown capability {unknown[0]!r}")

    def register(function: Callable[[Harness], Awaitable[None]]) -> Behaviour:
        if name in _registered:
            raise ValueError(f"there is a behaviour {name!r} already")
        made = Behaviour(name, needed, function)
        _registered[name] = made
        return made

    return register


def behaviours() -> list[Behaviour]:
    """Every behaviour of the contract, in the order in which it is best read.

    There is no way to leave one out: a store passes all of them, but for those that need a capability it
    does not declare.
    """
    return list(_registered.values())
