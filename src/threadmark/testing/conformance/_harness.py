"""Where a behaviour gets its stores from."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from ...stores.base import Store
from .._clock import FakeClock
from ._build import Builders


class Harness(Builders):
    """Makes stores for behaviours, and closes them.

    `make_store(place)` returns a store object (or an awaitable of one) on the data kept at `place`, a
    short name of letters and digits that the caller turns into a file, a schema, a key prefix, ... A
    place seen for the first time is empty; one seen again holds what was stored there. `make_store` is
    called in child processes too if the store declares "processes", and has to be picklable then: a
    function of a module, or a `functools.partial` of one.

    `files(place)` lists the files that hold that place's data. It is needed to check a store that
    declares "scrub"; files that do not exist are skipped.

    `timeout` is in seconds and bounds one behaviour. As an async context manager it closes what it made.
    """

    def __init__(
        self,
        make_store: Callable[[str], Store | Awaitable[Store]],
        *,
        files: Callable[[str], Iterable[Path]] | None = None,
        clock: FakeClock | None = None,
        timeout: float = 120.0,
    ) -> None:
        super().__init__(clock)
        self.make_store = make_store
        self.timeout = timeout
        self._files = files
        self._stores: list[tuple[str, Store]] = []
        self._capabilities: frozenset[str] | None = None

    async def capabilities(self) -> frozenset[str]:
        """What the store declares that it can do beyond the core of the contract."""
        if self._capabilities is None:
            await self.fresh()
        assert self._capabilities is not None
        return self._capabilities

    async def fresh(self) -> Store:
        """A store at a place of its own, empty."""
        return await self._make(f"place{uuid.uuid4().hex[:16]}")

    async def beside(self, store: Store) -> Store:
        """Another store object on the same data as `store`, which stays open. Needs "reopen"."""
        return await self._make(self.place(store))

    async def reopen(self, store: Store) -> Store:
        """Close `store`, and give a new object on the same data. Needs "reopen"."""
        await store.aclose()
        return await self._make(self.place(store))

    def place(self, store: Store) -> str:
        """The name of the place that `store` is on."""
        return next(place for place, made in self._stores if made is store)

    def files(self, store: Store) -> list[Path]:
        """The files that hold `store`'s data."""
        if self._files is None:
            raise AssertionError(
                "the store declares 'scrub': give Harness(files=...), so that its files can be searched"
            )
        return [path for path in self._files(self.place(store)) if path.is_file()]

    async def aclose(self) -> None:
        """Close every store that was made. More can be made afterwards."""
        stores, self._stores = self._stores, []
        for _, store in stores:
            await store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _make(self, place: str) -> Store:
        made = self.make_store(place)
        store = await made if inspect.isawaitable(made) else made
        self._stores.append((place, store))
        self._capabilities = store.capabilities
        return store
