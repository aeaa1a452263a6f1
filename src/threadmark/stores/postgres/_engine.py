"""Transactions, timeouts and retries.

Read transactions see one state; writing ones lock the rows that they count on. A transaction that the server
undid because of others' runs again, and so does one whose connection was lost before its end was asked for:
nothing of it was stored. When the connection is lost at the end itself nobody knows, and the error says so.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from ..._errors import ConfigurationError
from ._connections import Connections
from ._failures import SERIALIZATION, is_lost, translate
from ._session import READ, WRITE, Session, Statement, cursor_of, run_together
from ._settings import GRACE, Settings, name_of

T = TypeVar("T")

UNDONE_TRIES = 10
"""How often a transaction runs again that others' undid."""

LOST_TRIES = 3
"""How often a transaction runs again whose connection was lost before its end."""


class Engine:
    """Runs jobs against one database. `prepare(connection)` brings its schema up to date, once."""

    def __init__(self, settings: Settings, prepare: Callable[[psycopg.Connection[Any]], None]) -> None:
        self._settings = settings
        self._prepare = prepare
        self._where = "the PostgreSQL database" if settings.borrowed else name_of(settings.conninfo)
        self._abandoned: list[Connections] = []
        self._lock = threading.RLock()
        self._connections = self._fresh()
        self.on_write: Callable[[Sequence[str]], None] | None = None
        """Told the owners when something was written, or may have been."""
        _engines.add(self)

    def _fresh(self) -> Connections:
        return Connections(self._settings, self._where, self._prepare)

    # -- asking --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and bring the schema up to date."""
        await self._run(lambda connections: None)

    async def read(self, statements: Sequence[Statement], make: Callable[..., T], *owners: str) -> T:
        """`make` of the rows of each statement, all of one state of the database, in one round trip.

        `owners` are those whose rows may be touched where row-level security is on; here and below.
        """

        def job(connections: Connections) -> T:
            settings = self._needed(connections, owners)

            def attempt(connection: psycopg.Connection[Any]) -> list[Any]:
                if len(statements) == 1 and not settings:
                    return run_together(connection, statements)
                return _whole(Session(connection, settings, READ), statements)

            return make(*self._attempt(connections, attempt, is_lost))

        return await self._run(job)

    async def need_everybody(self, table: str) -> None:
        """Raise `ConfigurationError` where row-level security would hide rows of what spans owners."""
        if not self._settings.row_level_security:
            return
        if await self.read([("SELECT row_security_active(%s::regclass)", (table,))], lambda rows: rows[0][0]):
            raise ConfigurationError(
                "this spans owners, and row-level security shows this role one at a time; use a store whose "
                "role bypasses it (the tables' owner, or one with BYPASSRLS)"
            )

    async def call(self, statement: Statement, make: Callable[..., T], *owners: str) -> T:
        """`make` of the rows of one writing statement, which is a transaction of its own."""

        def job(connections: Connections) -> T:
            settings = self._needed(connections, owners)

            def attempt(connection: psycopg.Connection[Any]) -> list[Any]:
                if not settings and connection.info.transaction_status == TransactionStatus.IDLE:
                    return run_together(connection, [statement])
                return _whole(Session(connection, settings), [statement])

            return make(*self._attempt(connections, attempt, lambda error: False))

        return await self._writing(job, owners)

    async def _writing(self, job: Callable[[Connections], T], owners: Sequence[str]) -> T:
        try:
            return await self._run(job, GRACE)
        finally:
            if self.on_write is not None:
                self.on_write(owners)

    async def view(self, job: Callable[[Session], T], *owners: str) -> T:
        """The value of `job`, which reads one state of the database in several steps."""
        return await self.transact(job, *owners, begin=READ)

    async def transact(
        self, job: Callable[[Session], T], *owners: str, patient: bool = False, begin: str = WRITE
    ) -> T:
        """The value of `job`, run in a transaction that is committed when this returns.

        It may run more than once. With `patient` its statements may take as long as they take.
        """

        def run(connections: Connections) -> T:
            settings = self._needed(connections, owners, patient)
            ending = False

            def attempt(connection: psycopg.Connection[Any]) -> T:
                nonlocal ending
                session = Session(connection, settings, begin)
                try:
                    value = job(session)
                    session.commit()
                    return value
                except BaseException:
                    ending = session.ending
                    session.rollback()
                    raise

            return self._attempt(
                connections, attempt, lambda error: is_lost(error) and not ending, patient=patient
            )

        return await (self._writing(run, owners) if begin == WRITE else self._run(run))

    async def alone(self, job: Callable[[psycopg.Connection[Any]], T]) -> T:
        """The value of `job`, which runs outside of any transaction and takes as long as it takes."""

        def run(connections: Connections) -> T:
            if connections.pooler:
                raise ConfigurationError("this needs a connection to the server itself, past the pooler")
            with connections.borrow() as connection:
                if connection.info.transaction_status != TransactionStatus.IDLE:
                    raise ConfigurationError("this cannot run inside a transaction; end yours first")
                cursor = cursor_of(connection)
                kept = cursor.execute(
                    "SELECT name, setting FROM pg_settings "
                    "WHERE name IN ('statement_timeout', 'lock_timeout')"
                ).fetchall()
                try:
                    for name, _ in kept:
                        cursor.execute("SELECT set_config(%s, '0', false)", (name,))
                    return job(connection)
                finally:
                    if not connection.closed:
                        for name, value in kept:
                            cursor.execute("SELECT set_config(%s, %s, false)", (name, value))

        return await self._run(run)

    async def close(self) -> None:
        """Finish what was accepted, then close all connections that are ours."""
        await asyncio.to_thread(self._take().close)

    def stop(self) -> None:
        """Let go of everything, without waiting for it."""
        threading.Thread(target=self._take().close, name="threadmark-postgres-close", daemon=True).start()

    def after_fork(self) -> None:
        """In a child: the parent's connections are not ours, not even to close."""
        self._lock = threading.RLock()
        self._abandoned.append(self._connections)
        self._connections = self._fresh()

    def _take(self) -> Connections:
        """What is in use; the next operation opens anew."""
        with self._lock:
            taken, self._connections = self._connections, self._fresh()
        return taken

    # -- one job -------------------------------------------------------------------------------------

    async def _run(self, job: Callable[[Connections], T], patience: float = 0) -> T:
        with self._lock:
            connections = self._connections
            call = connections.workers.accept(lambda: self._guarded(connections, job))
        value: T = await call.done(patience)
        return value

    def _guarded(self, connections: Connections, job: Callable[[Connections], T]) -> T:
        try:
            connections.open()
            return job(connections)
        except BaseException as error:
            translated = translate(error, self._where)
            if translated is error:
                raise
            raise translated from error

    def _attempt(
        self,
        connections: Connections,
        attempt: Callable[[psycopg.Connection[Any]], T],
        again: Callable[[BaseException], bool],
        *,
        patient: bool = False,
    ) -> T:
        lost = undone = 0
        limit = max(self._settings.timeout, self._settings.busy_timeout) + GRACE
        while True:
            with connections.borrow() as connection:
                # Inside the application's own transaction only the application can begin again.
                nested = connection.info.transaction_status != TransactionStatus.IDLE
                try:
                    if not patient:
                        connections.watchdog.watch(connection, limit)
                    return attempt(connection)
                except psycopg.Error as error:
                    if nested:
                        raise
                    if error.sqlstate in SERIALIZATION and undone < UNDONE_TRIES:
                        undone += 1
                    elif again(error) and lost < LOST_TRIES:
                        lost += 1
                    else:
                        raise
                finally:
                    connections.watchdog.release(connection)
            time.sleep(random.uniform(0, 0.01 * 2 ** min(undone, 5)))

    def _needed(
        self, connections: Connections, owners: Sequence[str], patient: bool = False
    ) -> Mapping[str, str]:
        """What a transaction sets: what cannot live in the session, and the owners."""
        settings: dict[str, str] = {}
        if connections.pooler or self._settings.borrowed:
            settings = connections.session_settings()
        if patient:
            # Between two statements we may have as much to do as the server has in one.
            settings["statement_timeout"] = settings["idle_in_transaction_session_timeout"] = "0"
        if self._settings.row_level_security:
            settings["threadmark.owner"] = owners[0] if owners else ""
            settings["threadmark.other_owner"] = owners[1] if len(owners) > 1 else ""
        return settings


def _whole(session: Session, statements: Sequence[Statement]) -> list[Any]:
    """Run a whole transaction in one round trip."""
    try:
        return session.together(statements, last=True)
    except BaseException:
        session.rollback()
        raise


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork() -> None:
    for engine in list(_engines):
        engine.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
