"""The worlds of the conformance kit, on a store in memory unless a test has one of its own."""

from __future__ import annotations

from typing import Any

from threadmark.memory.observe.settings import ObservationalMemory
from threadmark.stores.base import Store
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing.conformance import _world
from threadmark.testing.conformance._world import (
    WHERE,
    WHO,
    Observer,
    Reflector,
    condense_all,
    note_all,
    noted,
    small,
)

__all__ = ["WHERE", "WHO", "Observer", "Reflector", "World", "condense_all", "note_all", "noted", "small"]


class World(_world.World):
    """A world on a store in memory."""

    def __init__(self, settings: ObservationalMemory, *, store: Store | None = None, **options: Any) -> None:
        super().__init__(settings, store=store or SQLiteStore(None), **options)
