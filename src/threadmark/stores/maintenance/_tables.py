"""What maintenance needs of a store: its tables, which have the same names and columns in all SQL stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from ..._errors import ConfigurationError
from ..._types import Message
from ..base import Store
from ..base._checks import Check

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]


class Tables(Protocol):
    """One open transaction. Times are text, as in SQLite; lists are JSON text, for `json_each(?)`."""

    def execute(self, sql: str, params: Sequence[object] = ()) -> list[Row]: ...

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None: ...

    def changes(self) -> int: ...


class TableStore(Protocol):
    """A store whose tables can be reached."""

    async def read_tables(self, job: Callable[[Tables], T]) -> T:
        """The value of `job` on one state of the database."""

    async def write_tables(
        self, job: Callable[[Tables], T], *, owner: str | None = None, alone: bool = False
    ) -> T:
        """The value of `job`, in a transaction that is committed; `owner` is the one whose rows it adds.

        With `alone` nobody else writes meanwhile.
        """

    index_owners: str
    """SQL that gives the number in the recall index of each owner, as `no`, and their `id`."""

    def index_checks(self) -> Sequence[Check]:
        """What may be wrong with the parts of the recall index that other stores do not have."""

    def unindexes(self, db: Tables, keys: Mapping[int, Sequence[int]]) -> None:
        """Take messages out of the recall index; by the number of the owner in the index, their keys."""

    def unembeds(self, db: Tables, keys: Mapping[int, Sequence[int]]) -> None:
        """Remove vectors; by the number of the owner in the index, the keys of what they are of."""

    def awaits(self, db: Tables, owner: str, keys: Sequence[int]) -> None:
        """Have messages, or observations by their negative keys, wait for vectors in all spaces."""

    def indexes(self, db: Tables, owner: str, messages: dict[int, Message]) -> None:
        """Bring the recall index up to date with messages, by key, that were written to the tables."""

    def vectors(self, db: Tables, owner: str, keys: Sequence[int]) -> list[tuple[str, int, bytes]]:
        """Space, key and vector of the owner's messages, or observations by their negative keys, in order."""

    def embeds(self, db: Tables, owner: str, space: str, vectors: Mapping[int, Sequence[bytes]]) -> None:
        """Keep vectors of messages, by key, in place of what they had; they wait for none any more."""


def of_store(store: Store) -> TableStore:
    """The store, if its tables can be reached. Raises `ConfigurationError`."""
    if not hasattr(store, "write_tables"):
        raise ConfigurationError(f"{type(store).__name__} has no tables that could be copied or checked")
    return cast("TableStore", store)
