"""Where connections come from: a pool of the store's own, or what the application handed in."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

from ..._errors import ConfigurationError, StoreBusyError, StoreError
from ._failures import is_starting, startup_error
from ._settings import Settings
from ._watch import Watchdog
from ._workers import Workers


class Connections:
    """Connections from the first use of a store to its closing, with the threads that use them."""

    def __init__(
        self, settings: Settings, where: str, prepare: Callable[[psycopg.Connection[Any]], None]
    ) -> None:
        self._settings = settings
        self._where = where
        self._prepare = prepare
        self.workers = Workers(1 if settings.connection is not None else settings.pool_size)
        self.watchdog = Watchdog()
        self.pooler = False
        """Whether somebody in between (PgBouncer, say) gives each transaction another session."""
        self._pool: ConnectionPool[Any] | None = settings.pool
        self._opened = False
        self._opening = threading.Lock()

    def open(self) -> None:
        """Connect, and bring the schema up to date, if that was not done yet."""
        if self._opened:
            return
        with self._opening:
            if not self._opened:
                if self._settings.borrowed:
                    with self.borrow() as connection:
                        self._prepare(connection)
                else:
                    self._open_pool()
                self._opened = True

    @contextlib.contextmanager
    def borrow(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection in autocommit mode, or in the transaction that the application has open on it."""
        connection = self._get()
        changed = False
        try:
            if not connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
                connection.autocommit = changed = True
            yield connection
        finally:
            if changed and not connection.closed:
                with contextlib.suppress(psycopg.Error):
                    connection.autocommit = False
            if self._settings.connection is None:
                self._put(connection)

    def close(self) -> None:
        """End the threads once they have done what was accepted, then close connections that are ours."""
        for thread in self.workers.stop():
            thread.join()
        self.watchdog.stop()
        if self._pool is not None and not self._settings.borrowed:
            self._pool.close()

    def connect(self) -> psycopg.Connection[Any]:
        """A new connection, or the reason why there is none."""
        end = time.monotonic() + self._settings.connect_timeout
        while True:
            try:
                return psycopg.connect(self._settings.conninfo, **self._arguments())
            except (psycopg.Error, UnicodeError) as error:
                if not is_starting(error) or time.monotonic() > end:
                    raise startup_error(error, self._where) from error
            time.sleep(0.1)

    def session_settings(self) -> dict[str, str]:
        """What holds in a session of ours."""
        milliseconds = f"{int(self._settings.timeout * 1000)}"
        return {
            "statement_timeout": milliseconds,
            "lock_timeout": f"{int(self._settings.busy_timeout * 1000)}",
            "idle_in_transaction_session_timeout": milliseconds,
            "TimeZone": "UTC",
            "DateStyle": "ISO, YMD",
        }

    def _open_pool(self) -> None:
        connection = self.connect()
        try:
            row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
            # The process number given when connecting is the pooler's own invention.
            self.pooler = row is None or row[0] != connection.info.backend_pid
            self._prepare(connection)
        finally:
            connection.close()
        self._pool = ConnectionPool(
            self._settings.conninfo,
            kwargs=self._arguments(),
            min_size=1,
            max_size=self._settings.pool_size,
            configure=None if self.pooler else self._configure,
            check=_check_alive,
            timeout=self._settings.busy_timeout,
            reconnect_timeout=self._settings.busy_timeout,
            name="threadmark",
            open=True,
        )

    def _configure(self, connection: psycopg.Connection[Any]) -> None:
        # Locks are counted on to be followed by a look at what others have committed meanwhile.
        settings = {**self.session_settings(), "default_transaction_isolation": "read committed"}
        calls = ", ".join(["set_config(%s, %s, false)"] * len(settings))
        connection.execute(f"SELECT {calls}", [text for pair in settings.items() for text in pair])

    def _arguments(self) -> dict[str, Any]:
        given = psycopg.conninfo.conninfo_to_dict(self._settings.conninfo)
        # A server that is gone without a word is noticed by those who wait for it, too.
        alive = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        return {
            **{name: seconds for name, seconds in alive.items() if name not in given},
            "autocommit": True,
            "prepare_threshold": None if self.pooler else 5,
            "application_name": given.get("application_name") or "threadmark",
            "connect_timeout": max(1, round(self._settings.connect_timeout)),
            "client_encoding": "utf8",
        }

    def _get(self) -> psycopg.Connection[Any]:
        if self._settings.connection is not None:
            given: psycopg.Connection[Any] = self._settings.connection
            if given.closed:
                raise ConfigurationError("the connection that the store was given is closed")
            return given
        assert self._pool is not None
        try:
            taken: psycopg.Connection[Any] = self._pool.getconn(timeout=self._settings.busy_timeout)
            return taken
        except (PoolTimeout, TooManyRequests) as error:
            if self._settings.borrowed:
                raise StoreBusyError(
                    f"the pool that the store was given gave no connection within `busy_timeout`: {error}"
                ) from error
            self.connect().close()  # says why, if it is not that all are in use
            raise StoreBusyError(f"{self._where}: all connections are in use; raise `pool_size`") from error
        except psycopg.OperationalError as error:
            if self._settings.borrowed:
                raise ConfigurationError(f"the pool that the store was given is not open: {error}") from error
            raise StoreError(f"{self._where}: the store was closed meanwhile") from error

    def _put(self, connection: psycopg.Connection[Any]) -> None:
        assert self._pool is not None
        if connection.info.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN):
            connection.close()  # it would not roll back, and is of no more use
        self._pool.putconn(connection)


def _check_alive(connection: psycopg.Connection[Any]) -> None:
    """Notice a connection that was closed while idle, without a round trip for those that were not."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        told: object = poll.poll(0)
    else:
        told = select.select([connection.fileno()], [], [], 0)[0]
    if told:
        ConnectionPool.check_connection(connection)
