"""One Pydantic AI model, and so one pool of HTTP connections, per event loop.

Connections belong to the loop that opened them. A pool that two loops share fails with "Event loop is
closed", or "attached to a different loop", as soon as the second one picks up a connection of the first.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .._errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic_ai.models import Model

    _Loops = MutableMapping[asyncio.AbstractEventLoop, "_Entry"]


@dataclass(slots=True)
class _Entry:
    model: Model
    guard: AsyncGenerator[None, None]
    entering: asyncio.Lock = field(default_factory=asyncio.Lock)
    entered: bool = False


class ModelPerLoop:
    """Gives the model to use on the running loop: `make`'s, made once per loop, or always the one `model`.

    A given `model` moves from loop to loop, which works as long as the loop before has stopped.
    """

    def __init__(self, *, make: Callable[[], Model] | None = None, model: Model | None = None) -> None:
        self._make = make
        self._model = model
        self._loops: _Loops = {}
        self._lock = threading.Lock()

    async def get(self) -> Model:
        loop = asyncio.get_running_loop()
        entry = self._loops.get(loop)
        if entry is not None and entry.entered:
            return entry.model
        if self._model is not None and not _connects(self._model):
            return self._model
        left: list[_Entry] = []
        with self._lock:
            entry = self._loops.get(loop)
            if entry is None:
                left = self._leave_loops()
                model = self._model if self._make is None else self._make()
                assert model is not None
                entry = self._loops[loop] = _Entry(model, _guard(self._loops, loop, model))
                # Its first step registers the guard with the loop, which ends it before it closes.
                with suppress(StopIteration):
                    entry.guard.__anext__().send(None)
        async with entry.entering:
            for old in left:
                with suppress(Exception):  # its connections are of a loop that is gone
                    await old.model.__aexit__(None, None, None)
            if not entry.entered:
                await entry.model.__aenter__()
                entry.entered = True
        return entry.model

    async def aclose(self) -> None:
        """Close the connections of the running loop. Other loops close theirs when they end."""
        entry = self._loops.get(asyncio.get_running_loop())
        if entry is not None:
            await entry.guard.aclose()

    def _leave_loops(self) -> list[_Entry]:
        """Forget loops that are closed; with a single model all others too. Returns those it has to leave."""
        left: list[_Entry] = []
        for loop, entry in list(self._loops.items()):
            if self._model is not None and loop.is_running():
                raise ConfigurationError(
                    "this model object is in use on another event loop that is still running, and its "
                    "connections belong to that loop; give a 'provider:model' string, or "
                    "PydanticAIModel(function that makes the model), which work on every loop at once"
                )
            if self._model is not None or loop.is_closed():
                del self._loops[loop]
                if self._model is not None and entry.entered:
                    left.append(entry)
        return left


async def _guard(loops: _Loops, loop: asyncio.AbstractEventLoop, model: Model) -> AsyncGenerator[None, None]:
    """Ends with its loop (`asyncio.run` closes async generators last), and closes the model's connections."""
    try:
        yield
    finally:
        entry = loops.pop(loop, None)
        if entry is not None and entry.entered:
            entry.entered = False
            await model.__aexit__(None, None, None)


def _connects(model: Model) -> bool:
    """Whether the model holds connections: function and test models do not, a fallback's members may."""
    return getattr(model, "provider", None) is not None or hasattr(model, "models")
