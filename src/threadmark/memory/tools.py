"""Tools that memory itself offers to an agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from .._types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTool:
    """A tool of one turn. `parameters` is a JSON schema; `run` gets the arguments and returns JSON.

    An error that `run` raises is for the model: its message says what to do instead.
    """

    name: str
    description: str
    parameters: Mapping[str, Json]
    run: Callable[[dict[str, Json]], Awaitable[Json]]
