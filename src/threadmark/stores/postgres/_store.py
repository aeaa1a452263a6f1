"""The store: the contract's operations, each as statements for the engine."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, TypeVar

import psycopg
import psycopg_pool

from ..._errors import ConfigurationError
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
from ..sqlite import _speaker_erase
from . import (
    _erase,
    _messages,
    _migrations,
    _observations,
    _policies,
    _recall,
    _recall_check,
    _recall_spaces,
    _runs,
    _threads,
    _turns,
    _working,
)
from ._engine import Engine
from ._functions import NEEDS_MERGE, OBSERVED, RECALL_CHANGED
from ._names import Names
from ._observation_store import PostgresObservations
from ._recall_store import PostgresRecall
from ._replica import Reads
from ._rows import message_from_row, run_from_row, thread_from_row
from ._session import READ, Row, Session
from ._settings import REPLICA_WAIT, Settings, check_seconds, name_of

T = TypeVar("T")


class PostgresStore(PostgresRecall, PostgresObservations, Store):
    """Everything in one schema of a PostgreSQL database (14 or later).

    Args:
        conninfo: A libpq connection string or URL. Not given with `pool` or `connection`.
        schema: The schema that holds the tables; created when missing.
        pool_size: Most connections, and most operations at once; others wait.
        timeout: Seconds that a statement may take, and a server say nothing, before `StoreError`.
        busy_timeout: Seconds to wait for a connection or for other writers' locks before `StoreBusyError`.
        connect_timeout: Seconds that connecting may take.
        migrate: Whether to create and upgrade the tables; without it an older schema is an error.
        row_level_security: Name the owner to the server in each transaction, for `policies` to see.
        read_url: A connection string of a standby of the server, for lists that may lag behind.
        read_settle: For how many seconds after this store has written for an owner their lists are read from
            the primary.
        pool: A `psycopg_pool.ConnectionPool` to use and not to close.
        connection: A `psycopg.Connection` to use and not to close. Inside a transaction that is open on
            it every operation is a savepoint, and durable when that transaction is committed.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"reopen", "processes", "observations", "recall"})

    def __init__(
        self,
        conninfo: str = "",
        *,
        schema: str = "threadmark",
        pool_size: int = 10,
        timeout: float = 60.0,
        busy_timeout: float = 30.0,
        connect_timeout: float = 10.0,
        migrate: bool = True,
        row_level_security: bool = False,
        read_url: str = "",
        read_settle: float = 10.0,
        pool: psycopg_pool.ConnectionPool[Any] | None = None,
        connection: psycopg.Connection[Any] | None = None,
    ) -> None:
        if sum([bool(conninfo), pool is not None, connection is not None]) != 1:
            raise ConfigurationError(
                "a PostgreSQL store takes one of a connection string, `pool` and `connection`"
            )
        _check_handed(pool, connection)
        settings = Settings(
            conninfo=conninfo,
            schema=schema,
            pool_size=pool_size if pool is None else pool.max_size or pool_size,
            timeout=timeout,
            busy_timeout=busy_timeout,
            connect_timeout=connect_timeout,
            migrate=migrate,
            row_level_security=row_level_security,
            pool=pool,
            connection=connection,
        )
        self._names = Names(schema)
        # What was the case at the last turn; the database knows better, and says so.
        self._recalls: str | None = None
        self._where = name_of(conninfo) if conninfo else "the PostgreSQL database"
        # Not a method: the engine's threads must not keep the store alive.
        self._engine = Engine(settings, partial(_prepare, settings=settings, where=self._where))
        check_seconds("read_settle", read_settle, 0)
        self._replica: Engine | None = None
        if read_url:
            # What keeps it from answering must not keep the answer waiting: the primary gives it, too.
            second = replace(
                settings,
                conninfo=read_url,
                pool_size=pool_size,
                busy_timeout=min(busy_timeout, REPLICA_WAIT),
                connect_timeout=min(connect_timeout, REPLICA_WAIT),
                migrate=False,
                pool=None,
                connection=None,
            )
            self._replica = Engine(second, partial(_prepare, settings=second, where=name_of(read_url)))
        self._reads = Reads(self._engine, self._replica, read_settle)
        # A store that nobody holds any more lets go of its threads and connections.
        for engine in (self._engine, self._replica):
            if engine is not None:
                weakref.finalize(self, engine.stop).atexit = False

    def __repr__(self) -> str:
        return f"PostgresStore({self._where}, schema {self._names.schema})"

    async def open(self) -> None:
        await self._engine.open()

    async def aclose(self) -> None:
        await self._engine.close()
        if self._replica is not None:
            await self._replica.close()

    async def _need_everybody(self) -> None:
        await self._engine.need_everybody(self._names.threads)

    # -- threads -------------------------------------------------------------------------------------

    async def create_thread(self, owner: str, thread: NewThread) -> Thread:
        names = self._names
        row = await self._engine.transact(lambda db: _threads.insert(db, names, owner, thread), owner)
        return thread_from_row(row)

    async def get_thread(self, owner: str, thread_id: str) -> Thread | None:
        check_id("resource", owner)

        def make(rows: list[Row]) -> Thread | None:
            return thread_from_row(rows[0]) if rows else None

        return await self._engine.read([_threads.find(self._names, owner, thread_id)], make, owner)

    async def list_threads(self, owner: str, query: ThreadQuery) -> ThreadPage:
        check_id("resource", owner)
        page: ThreadPage = await self._reads.read(
            query.lagging, *_threads.list_page(self._names, owner, query), owner
        )
        return page

    async def update_thread(self, owner: str, thread_id: str, change: ThreadChange) -> Thread:
        check_id("resource", owner)
        names = self._names
        return await self._engine.transact(
            lambda db: _threads.change(db, names, owner, thread_id, change), owner
        )

    async def delete_thread(self, owner: str, thread_id: str) -> bool:
        check_id("resource", owner)
        names = self._names
        return await self._engine.transact(
            lambda db: _threads.delete_one(db, names, owner, thread_id), owner, patient=True
        )

    async def clone_thread(self, owner: str, thread_id: str, request: CloneRequest) -> ThreadClone:
        check_id("resource", owner)
        names = self._names
        return await self._engine.transact(
            lambda db: _threads.clone(db, names, owner, thread_id, request),
            owner,
            owner if request.owner is None else request.owner,
            patient=True,
        )

    async def clone_history(self, owner: str, thread_id: str) -> list[Thread]:
        check_id("resource", owner)
        return await self._engine.read([_threads.history(self._names, owner, thread_id)], _as_threads, owner)

    async def list_clones(self, owner: str, thread_id: str, *, all_owners: bool = False) -> list[Thread]:
        check_id("resource", owner)
        if all_owners:
            await self._need_everybody()
        statement = _threads.clones(self._names, owner, thread_id, all_owners)
        return await self._engine.read([statement], _as_threads, owner)

    async def transfer_thread(self, owner: str, thread_id: str, new_owner: str, now: datetime) -> Thread:
        check_id("resource", owner)
        names = self._names
        return await self._engine.transact(
            lambda db: _threads.transfer(db, names, owner, thread_id, new_owner, now),
            owner,
            check_id("resource", new_owner),
            patient=True,
        )

    # -- messages ------------------------------------------------------------------------------------

    async def list_messages(self, owner: str, query: MessageQuery) -> MessagePage:
        check_id("resource", owner)
        page: MessagePage = await self._reads.read(
            query.lagging, *_messages.list_page(self._names, owner, query), owner
        )
        return page

    async def get_messages(
        self, owner: str, ids: Sequence[str], *, thread_id: str | None = None, before: int = 0, after: int = 0
    ) -> list[Message]:
        check_id("resource", owner)
        check_count("before", before)
        check_count("after", after)
        statement = _messages.by_ids(self._names, owner, ids, thread_id, before, after)
        return await self._engine.read(
            [statement], lambda rows: [message_from_row(row) for row in rows], owner
        )

    async def update_messages(
        self, owner: str, thread_id: str, changes: Sequence[MessageChange], now: datetime
    ) -> list[Message]:
        check_id("resource", owner)
        names = self._names
        return await self._engine.transact(
            lambda db: _messages.update(db, names, owner, thread_id, changes, now), owner
        )

    async def delete_messages(
        self, owner: str, thread_id: str, ids: Sequence[str], now: datetime
    ) -> list[str]:
        check_id("resource", owner)
        names = self._names
        return await self._engine.transact(
            lambda db: _messages.delete(db, names, owner, thread_id, ids, now), owner
        )

    # -- turns and runs ------------------------------------------------------------------------------

    async def read_turn(self, owner: str, query: TurnQuery) -> TurnState:
        check_id("resource", owner)
        statements, make = _turns.read(self._names, owner, query)
        wanted = query.observations
        if wanted is None:
            return await self._engine.read(statements, make, owner)

        def job(db: Session) -> TurnState:
            state = make(*db.together(statements))
            return replace(state, observations=_observations.read(db, self._names, owner, wanted))

        return await self._engine.view(job, owner)

    async def write_turn(self, owner: str, write: TurnWrite) -> TurnReceipt:
        turn = _turns.Write(self._names, owner, write)
        turn.recall = self._recalls
        careful = False
        while True:
            try:
                if careful:
                    return await self._engine.transact(turn.careful, owner)
                return await self._engine.call(turn.statement(), turn.receipt, owner)
            except psycopg.Error as error:
                if error.sqlstate == NEEDS_MERGE:
                    careful = True
                elif error.sqlstate == OBSERVED:
                    careful = turn.observed = True
                elif error.sqlstate == RECALL_CHANGED:
                    turn.recall = self._recalls = error.diag.message_primary or None
                else:
                    raise turn.refused(error) or error from None

    async def get_run(self, owner: str, run_id: str) -> Run | None:
        check_id("resource", owner)

        def make(rows: list[Row]) -> Run | None:
            return run_from_row(rows[0]) if rows else None

        return await self._engine.read([_runs.find(self._names, owner, run_id)], make, owner)

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
            *_runs.list_page(self._names, owner, thread_id, status, agent, since, until, page, per_page),
            owner,
        )

    async def renew_run(self, owner: str, run_id: str, version: int, expires_at: datetime) -> bool:
        check_id("resource", owner)
        return await self._engine.call(
            _runs.renew(self._names, owner, run_id, version, expires_at), bool, owner
        )

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
        statement = _working.newest(self._names, owner, thread_id, limit)
        return await self._engine.read(
            [statement], lambda rows: _working.from_rows(rows, owner, thread_id), owner
        )

    async def write_working_memory(
        self, owner: str, write: WorkingMemoryWrite, now: datetime
    ) -> WorkingMemoryVersion:
        check_id("resource", owner)
        names = self._names
        return await self._engine.transact(lambda db: _working.write(db, names, owner, write, now), owner)

    # -- erasure and administration ------------------------------------------------------------------

    async def erase(
        self, owner: str, *, thread_id: str | None = None, now: datetime, scrub: bool = True
    ) -> ErasureReceipt:
        check_id("resource", owner)
        names = self._names
        receipt = await self._engine.transact(
            lambda db: _erase.erase(db, names, owner, thread_id, now), owner, patient=True
        )
        if thread_id is None:
            # A transaction of its own: it waits for those who may be waiting for the rows that went.
            await self._engine.transact(lambda db: _recall_spaces.forget_owner(db, names, owner), owner)
        return receipt

    async def erase_speaker(
        self, owner: str, erasure: SpeakerErasure, *, scrub: bool = True
    ) -> ErasureReceipt:
        check_id("resource", owner)
        names = self._names

        def job(db: Session) -> ErasureReceipt:
            db.rows(*_threads.lock_owner(names, owner))
            prepared = _speaker_erase.prepare(_observations.spoken(db, names, locking=True), owner, erasure)
            db.rows(*_threads.forget_if_bare(names, owner))
            if prepared.ids:
                _messages.delete(db, names, owner, erasure.thread_id, prepared.ids, erasure.now)
            return prepared.receipt

        return await self._engine.transact(job, owner, patient=True)

    async def list_owners(self, *, after: str = "", limit: int = 100) -> list[str]:
        check_count("limit", limit)
        check_text("after", after)
        await self._need_everybody()
        statement = (
            f"SELECT id FROM {self._names.resources} WHERE id > %s ORDER BY id LIMIT %s",
            (after, limit),
        )
        return await self._engine.read([statement], _as_ids)

    async def find_owners(self, thread_id: str) -> list[str]:
        await self._need_everybody()
        statement = (
            f"SELECT resource_id FROM {self._names.threads} WHERE id = %s ORDER BY resource_id",
            (check_id("thread", thread_id),),
        )
        return await self._engine.read([statement], _as_ids)

    # -- maintenance -----------------------------------------------------------------------------------

    async def read_tables(self, job: Callable[[Any], T]) -> T:
        """For `stores.maintenance`: see there."""
        await self._need_everybody()
        return await self._engine.transact(
            lambda db: job(_observations.spoken(db, self._names)), patient=True, begin=READ
        )

    async def write_tables(
        self, job: Callable[[Any], T], *, owner: str | None = None, alone: bool = False
    ) -> T:
        """For `stores.maintenance`: see there."""

        def work(db: Session) -> T:
            if alone:
                _recall.wait_for_all(db, self._names)
            if owner is not None:
                db.rows(*_threads.lock_owner(self._names, owner))
            return job(_observations.spoken(db, self._names))

        return await self._engine.transact(work, *([] if owner is None else [owner]), patient=True)

    def indexes(self, db: Any, owner: str, messages: dict[int, Message]) -> None:
        """For `stores.maintenance`: see there."""
        newest = max(
            [message.created_at for message in messages.values() if message.created_at], default=None
        )
        _recall.wrote(db.session, self._names, owner, messages, newest or datetime.now(UTC))

    index_owners = _recall_check.OWNERS

    def index_checks(self) -> Sequence[Check]:
        """For `stores.maintenance`: see there."""
        return _recall_check.checks(self._names)

    def unindexes(self, db: Any, keys: Mapping[int, Sequence[int]]) -> None:
        """For `stores.maintenance`: see there."""
        for number, gone in keys.items():
            db.session.rows(f"SELECT {self._names.schema}.recall_unindex(%s, %s)", (number, list(gone)))

    def unembeds(self, db: Any, keys: Mapping[int, Sequence[int]]) -> None:
        """For `stores.maintenance`: see there."""
        _recall_check.unembed(db.session, self._names, keys)

    def awaits(self, db: Any, owner: str, keys: Sequence[int]) -> None:
        """For `stores.maintenance`: see there."""
        _recall.awaits(db.session, self._names, owner, keys, datetime.now(UTC))

    def vectors(self, db: Any, owner: str, keys: Sequence[int]) -> list[tuple[str, int, bytes]]:
        """For `stores.maintenance`: see there."""
        return _recall_spaces.vectors(db.session, self._names, owner, keys)

    def embeds(self, db: Any, owner: str, space: str, vectors: Mapping[int, Sequence[bytes]]) -> None:
        """For `stores.maintenance`: see there."""
        _recall_spaces.keep(db.session, self._names, owner, space, vectors)


def _prepare(connection: psycopg.Connection[Any], settings: Settings, where: str) -> None:
    _migrations.migrate(connection, settings.schema, where, allowed=settings.migrate)
    if not settings.row_level_security:
        _policies.need_owners_named(connection, settings.schema, where)


def _as_threads(rows: list[Row]) -> list[Thread]:
    return [thread_from_row(row) for row in rows]


def _as_ids(rows: list[Row]) -> list[str]:
    return [row[0] for row in rows]


def _check_handed(pool: object, connection: object) -> None:
    """The driver's blocking kinds serve every event loop and thread; its asynchronous ones only one."""
    for name, given, kind in (
        ("pool", pool, psycopg_pool.ConnectionPool),
        ("connection", connection, psycopg.Connection),
    ):
        if given is not None and not isinstance(given, kind):
            raise ConfigurationError(
                f"`{name}` must be a {kind.__module__.partition('.')[0]}.{kind.__name__}, "
                f"not {type(given).__name__}: the store is used from several event loops and threads"
            )
