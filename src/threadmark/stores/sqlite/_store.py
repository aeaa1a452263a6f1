"""The store: the contract's operations, each a job for the engine."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar, Literal, TypeVar

from ..._errors import ConfigurationError, StoreError
from ..._ids import check_count, check_id, check_paging, check_text
from ..._types import (
    ErasureReceipt,
    Message,
    MessagePage,
    Run,
    RunPage,
    RunStatus,
    Thread,
    ThreadClone,
    ThreadPage,
    WorkingMemoryVersion,
)
from ..base import (
    CloneRequest,
    MessageChange,
    MessageQuery,
    NewThread,
    SpeakerErasure,
    Store,
    ThreadChange,
    ThreadQuery,
    TurnQuery,
    TurnReceipt,
    TurnState,
    TurnWrite,
    WorkingMemoryWrite,
)
from ..base._checks import Check
from . import (
    _erase,
    _messages,
    _migrations,
    _recall,
    _recall_spaces,
    _runs,
    _speaker_erase,
    _threads,
    _turns,
    _working,
)
from ._driver import Connect, Connection, find_driver
from ._engine import Engine
from ._observation_operations import ObservationOperations
from ._recall_store import SQLiteRecall
from ._rows import thread_from_row

T = TypeVar("T")

SHORT = 100_000
"""Characters up to which a turn is written on the caller's thread, counted over all that it holds."""
SHORT_INDEXED = 8_000
"""The same where a turn's words are indexed, which takes some 0.3 ms for 1,000 characters."""


def _is_short(write: TurnWrite, room: int) -> bool:
    for message in write.messages:
        for part in message.parts:
            for name in part.__slots__:
                room = _less(room, getattr(part, name))
                if room < 0:
                    return False
    return True


def _less(room: int, value: object) -> int:
    """What of `room` is left after `value`; stops looking once nothing is."""
    if isinstance(value, (str, bytes)):
        return room - len(value) - 8
    if isinstance(value, (Mapping, list, tuple)):
        for item in value.items() if isinstance(value, Mapping) else value:
            room = _less(room, item)
            if room < 0:
                break
        return room
    return room - 8


def _configure(path: str, read_only: bool, durability: str, db: Connection, reader: bool) -> None:
    if not reader:
        _migrations.recognise(db, path)
    in_file = not read_only and path != ":memory:"
    # The mode is kept in the file; asking first avoids the exclusive lock that a switch needs.
    if in_file and not reader and db.execute("PRAGMA journal_mode")[0][0] != "wal":
        db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={durability.upper()}")
    db.execute("PRAGMA temp_store=MEMORY")
    db.execute("PRAGMA query_only=ON" if reader else "PRAGMA secure_delete=ON")


def _prepare(path: str, read_only: bool, db: Connection) -> None:
    if read_only:
        _migrations.check(db, path)
    else:
        _migrations.migrate(db, path)


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 86_400:
        raise ConfigurationError(f"{name} must be seconds between 0 and 86400, not {value!r}")


class SQLiteStore(ObservationOperations, SQLiteRecall, Store):
    """Everything in one SQLite file, or in memory.

    Args:
        path: The file; created when missing. `None` keeps everything in memory, for this object only.
        durability: "normal" survives the death of the process at any moment, and after a power cut
            comes back whole, perhaps without the last commits; "full" also keeps those, for one disk flush
            per commit.
        busy_timeout: Seconds to wait for other processes' writes before `StoreBusyError`.
        readers: Most threads that read at once.
        read_only: Open an existing database for reading; writing raises `StoreError`.
        driver: "apsw", "sqlite3", or a function that opens a connection (see `_driver.Connect`), for
            wrapping one: tests inject faults there.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"scrub", "reopen", "processes", "observations", "recall"}
    )

    def __init__(
        self,
        path: str | None,
        *,
        durability: Literal["normal", "full"] = "normal",
        busy_timeout: float = 30.0,
        readers: int = 4,
        read_only: bool = False,
        driver: str | Connect = "apsw",
    ) -> None:
        if durability not in ("normal", "full"):
            raise ConfigurationError(f"durability is 'normal' or 'full', not {durability!r}")
        if path == "":
            raise ConfigurationError("the path of a SQLite store is empty; use `None` for memory")
        if not path and read_only:
            raise ConfigurationError("a database in memory cannot be opened read-only")
        # An absolute path: the process may change its folder between connections.
        self._path = os.path.abspath(path) if path else ":memory:"
        _check_seconds("busy_timeout", busy_timeout)
        check_count("readers", readers, least=1)
        if self._path == ":memory:":
            # It ends with this object, and nobody else can reach it.
            vars(self)["capabilities"] = frozenset({"scrub", "observations", "recall"})
        self._unscrubbed = False
        self._indexes = False
        self._engine = Engine(
            self._path,
            find_driver(driver) if isinstance(driver, str) else driver,
            # Not methods: the engine's threads must not keep the store alive.
            prepare=partial(_prepare, self._path, read_only),
            configure=partial(_configure, self._path, read_only, durability),
            read_only=read_only,
            readers=readers,
            busy_timeout=busy_timeout,
            flushes=durability == "full",
        )
        # A store that nobody holds any more lets go of its threads and files.
        weakref.finalize(self, self._engine.stop).atexit = False

    def __repr__(self) -> str:
        return f"SQLiteStore({None if self._path == ':memory:' else self._path!r})"

    async def open(self) -> None:
        await self._engine.read(lambda _: None)

    async def aclose(self) -> None:
        await self._engine.close()

    # -- threads -------------------------------------------------------------------------------------

    async def create_thread(self, owner: str, thread: NewThread) -> Thread:
        return await self._engine.write(lambda db: _threads.create(db, owner, thread))

    async def get_thread(self, owner: str, thread_id: str) -> Thread | None:
        def job(db: Connection) -> Thread | None:
            row = _threads.find(db, owner, thread_id)
            return None if row is None else thread_from_row(row)

        check_id("resource", owner)
        return await self._engine.read(job)

    async def list_threads(self, owner: str, query: ThreadQuery) -> ThreadPage:
        check_id("resource", owner)
        return await self._engine.read(lambda db: _threads.list_page(db, owner, query))

    async def update_thread(self, owner: str, thread_id: str, change: ThreadChange) -> Thread:
        check_id("resource", owner)
        return await self._engine.write(lambda db: _threads.change(db, owner, thread_id, change))

    async def delete_thread(self, owner: str, thread_id: str) -> bool:
        check_id("resource", owner)
        return bool(await self._engine.write(lambda db: _threads.delete(db, owner, thread_id)))

    async def clone_thread(self, owner: str, thread_id: str, request: CloneRequest) -> ThreadClone:
        check_id("resource", owner)
        return await self._engine.write(lambda db: _threads.clone(db, owner, thread_id, request))

    async def clone_history(self, owner: str, thread_id: str) -> list[Thread]:
        check_id("resource", owner)
        check_id("thread", thread_id)
        return await self._engine.read(lambda db: _threads.history(db, owner, thread_id))

    async def list_clones(self, owner: str, thread_id: str, *, all_owners: bool = False) -> list[Thread]:
        check_id("resource", owner)
        return await self._engine.read(lambda db: _threads.clones(db, owner, thread_id, all_owners))

    async def transfer_thread(self, owner: str, thread_id: str, new_owner: str, now: datetime) -> Thread:
        check_id("resource", owner)
        return await self._engine.write(lambda db: _threads.transfer(db, owner, thread_id, new_owner, now))

    # -- messages ------------------------------------------------------------------------------------

    async def list_messages(self, owner: str, query: MessageQuery) -> MessagePage:
        check_id("resource", owner)
        return await self._engine.read(lambda db: _messages.list_page(db, owner, query))

    async def get_messages(
        self, owner: str, ids: Sequence[str], *, thread_id: str | None = None, before: int = 0, after: int = 0
    ) -> list[Message]:
        check_id("resource", owner)
        check_count("before", before)
        check_count("after", after)
        return await self._engine.read(lambda db: _messages.by_ids(db, owner, ids, thread_id, before, after))

    async def update_messages(
        self, owner: str, thread_id: str, changes: Sequence[MessageChange], now: datetime
    ) -> list[Message]:
        check_id("resource", owner)
        return await self._engine.write(lambda db: _messages.update(db, owner, thread_id, changes, now))

    async def delete_messages(
        self, owner: str, thread_id: str, ids: Sequence[str], now: datetime
    ) -> list[str]:
        check_id("resource", owner)
        return await self._engine.write(lambda db: _messages.delete(db, owner, thread_id, ids, now))

    # -- turns ---------------------------------------------------------------------------------------

    async def read_turn(self, owner: str, query: TurnQuery) -> TurnState:
        check_id("resource", owner)
        return await self._engine.read(lambda db: _turns.read(db, owner, query))

    async def write_turn(self, owner: str, write: TurnWrite) -> TurnReceipt:
        check_id("resource", owner)
        room = SHORT_INDEXED if self._indexes else SHORT
        return await self._engine.write(
            lambda db: _turns.write(db, owner, write), short=_is_short(write, room)
        )

    # -- runs ----------------------------------------------------------------------------------------

    async def get_run(self, owner: str, run_id: str) -> Run | None:
        check_id("resource", owner)
        return await self._engine.read(lambda db: _runs.get(db, owner, run_id))

    async def list_runs(
        self,
        owner: str,
        *,
        thread_id: str | None = None,
        status: RunStatus | None = None,
        agent: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        page: int = 0,
        per_page: int | None = 100,
    ) -> RunPage:
        check_id("resource", owner)
        check_paging(page, per_page)
        return await self._engine.read(
            lambda db: _runs.list_page(db, owner, thread_id, status, agent, since, until, page, per_page)
        )

    async def renew_run(self, owner: str, run_id: str, version: int, expires_at: datetime) -> bool:
        check_id("resource", owner)
        return await self._engine.write(lambda db: _runs.renew(db, owner, run_id, version, expires_at))

    # -- working memory ------------------------------------------------------------------------------

    async def get_working_memory(
        self, owner: str, *, thread_id: str | None = None
    ) -> WorkingMemoryVersion | None:
        versions = await self.list_working_memory(owner, thread_id=thread_id, limit=1)
        return versions[0] if versions else None

    async def list_working_memory(
        self, owner: str, *, thread_id: str | None = None, limit: int | None = 100
    ) -> list[WorkingMemoryVersion]:
        check_id("resource", owner)
        if limit is not None:
            check_count("limit", limit)

        def job(db: Connection) -> list[WorkingMemoryVersion]:
            row = None if thread_id is None else _threads.find(db, owner, thread_id)
            if thread_id is not None and row is None:
                return []
            number = _working.OF_RESOURCE if row is None else row[0]
            return _working.newest(db, owner, number, thread_id, limit)

        return await self._engine.read(job)

    async def write_working_memory(
        self, owner: str, write: WorkingMemoryWrite, now: datetime
    ) -> WorkingMemoryVersion:
        check_id("resource", owner)

        def job(db: Connection) -> WorkingMemoryVersion:
            number = _threads.number_of(db, owner, write.thread_id)
            return _working.write(db, owner, number, write, now)

        return await self._engine.write(job)

    # -- erasure and administration ------------------------------------------------------------------

    async def erase(
        self, owner: str, *, thread_id: str | None = None, now: datetime, scrub: bool = True
    ) -> ErasureReceipt:
        check_id("resource", owner)
        receipt = await self._engine.write(lambda db: _erase.erase(db, owner, thread_id, now))
        return await self._scrubbed(receipt) if scrub else receipt

    async def erase_speaker(
        self, owner: str, erasure: SpeakerErasure, *, scrub: bool = True
    ) -> ErasureReceipt:
        check_id("resource", owner)

        def job(db: Connection) -> ErasureReceipt:
            prepared = _speaker_erase.prepare(db, owner, erasure)
            if prepared.ids:
                _messages.delete(db, owner, erasure.thread_id, prepared.ids, erasure.now)
            return prepared.receipt

        receipt = await self._engine.write(job)
        return await self._scrubbed(receipt) if scrub else receipt

    async def _scrubbed(self, receipt: ErasureReceipt) -> ErasureReceipt:
        """The receipt, once every byte of what was removed is gone too, if that can be."""
        if not receipt.removed and not self._unscrubbed:
            # Nothing to remove is no reason to rewrite a file; an earlier scrub may still wait for the log.
            return replace(receipt, scrubbed=await self._engine.write(_erase.empty_log, "exclusive"))
        try:
            self._unscrubbed = True
            scrubbed = await self._engine.write(_erase.scrub, "exclusive")
            self._unscrubbed = False
            return replace(receipt, scrubbed=scrubbed)
        except StoreError:
            # The rows are gone; only their bytes may still be in the file, and the receipt says so.
            return receipt

    # -- maintenance -----------------------------------------------------------------------------------

    async def read_tables(self, job: Callable[[Connection], T]) -> T:
        """For `stores.maintenance`: see there."""
        return await self._engine.read(job)

    async def write_tables(
        self, job: Callable[[Connection], T], *, owner: str | None = None, alone: bool = False
    ) -> T:
        """For `stores.maintenance`: see there. There is one writer at a time, so each is `alone`."""

        def work(db: Connection) -> T:
            if owner is not None:
                db.execute("INSERT OR IGNORE INTO resources (id) VALUES (?)", (owner,))
            return job(db)

        return await self._engine.write(work)

    def indexes(self, db: Connection, owner: str, messages: dict[int, Message]) -> None:
        """For `stores.maintenance`: see there."""
        newest = max(
            [message.created_at for message in messages.values() if message.created_at], default=None
        )
        _recall.wrote(db, owner, messages.items(), newest or datetime.now(UTC))

    index_owners = "SELECT owner_no AS no, resource_id AS id FROM recall_owners"

    def index_checks(self) -> Sequence[Check]:
        """For `stores.maintenance`: see there."""
        from . import _recall_check

        return _recall_check.checks()

    def unindexes(self, db: Connection, keys: Mapping[int, Sequence[int]]) -> None:
        """For `stores.maintenance`: see there."""
        from . import _recall_check

        _recall_check.unindex(db, keys)

    def unembeds(self, db: Connection, keys: Mapping[int, Sequence[int]]) -> None:
        """For `stores.maintenance`: see there."""
        from . import _recall_check

        _recall_check.unembed(db, keys)

    def awaits(self, db: Connection, owner: str, keys: Sequence[int]) -> None:
        """For `stores.maintenance`: see there."""
        at = datetime.now(UTC).timestamp()
        for (number,) in db.execute("SELECT space_no FROM recall_spaces"):
            _recall_spaces.enqueue(db, number, keys, at, at)

    def vectors(self, db: Connection, owner: str, keys: Sequence[int]) -> list[tuple[str, int, bytes]]:
        """For `stores.maintenance`: see there."""
        return _recall_spaces.vectors(db, owner, keys)

    def embeds(self, db: Connection, owner: str, space: str, vectors: Mapping[int, Sequence[bytes]]) -> None:
        """For `stores.maintenance`: see there."""
        _recall_spaces.keep(db, owner, space, vectors)

    async def list_owners(self, *, after: str = "", limit: int = 100) -> list[str]:
        check_count("limit", limit)
        check_text("after", after)
        rows = await self._engine.read(
            lambda db: db.execute("SELECT id FROM resources WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
        )
        return [row[0] for row in rows]

    async def find_owners(self, thread_id: str) -> list[str]:
        check_id("thread", thread_id)
        rows = await self._engine.read(
            lambda db: db.execute(
                "SELECT resource_id FROM threads WHERE id = ? ORDER BY resource_id", (thread_id,)
            )
        )
        return [row[0] for row in rows]
