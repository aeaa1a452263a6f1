"""One writer, many readers.

All writes of a process go through one connection. Writes that wait for it queue up for one thread, which runs
them together in one transaction, each in its own savepoint: many waiting writers share one commit, and one
failing write undoes only itself. Reads run on a few other threads, each with its own connection, and never
wait for the writer (WAL). Results return to whichever event loop asked.

A short write that finds nothing in its way runs at once, on the caller's thread: it takes about 60 µs,
little more than the switch to another thread and back. When several tasks of an event loop write in the same
round of it, they run together at the round's end, for a third of that is the commit. Short writes never wait
there: if the lock is taken, by this process or another, or if a commit means a disk flush, the thread does
them. Checkpoints, which flush, are always the thread's.

An in-memory database has one connection, so its reads join the writer's queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeAlias, TypeVar

from ..._errors import StoreBusyError, ThreadmarkError
from ._driver import Connect, Connection, Mode, translate

T = TypeVar("T")
Job: TypeAlias = Callable[[Connection], T]
Kind: TypeAlias = Literal["transaction", "exclusive"]

MAX_GROUP = 256
"""Most writes that share one commit."""

MAX_ROUND = 32
"""Most short writes that run together on the caller's thread; more would keep its event loop for too long."""

CHECKPOINT_PAGES = 4000
"""Length of the write-ahead log (16 MB) from which it is copied into the database file.

Writes of this process wait for the copy and its two flushes, about as long for 4,000 pages as for 1,000: most
of the log is the same pages again.
"""

LONG_LOG_PAGES = 4 * CHECKPOINT_PAGES
"""Length of the log from which its copy also waits for readers.

It begins anew only where nobody reads from it: under readers that overlap it would grow for ever.
"""

READERS_WAIT = 0.5
"""Seconds that writes then wait for those who read an old state. One that reads for longer delays the end."""


class _Call:
    """A job on its way to a thread, and the future of whoever waits for it."""

    __slots__ = ("error", "future", "job", "kind", "loop", "value")

    def __init__(self, job: Job[Any], kind: Kind) -> None:
        self.job = job
        self.kind = kind
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.value: Any = None
        self.error: BaseException | None = None


class _Shared:
    """The writer's connection once it is open, and the right to use it."""

    __slots__ = ("connection", "lock")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.lock = threading.Lock()


class _Round(threading.local):
    """The short writes of one round of this thread's event loop."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None  # in which the round's end is scheduled
        self.writes = 0
        self.crowded = False  # several in the last round that had any: this one waits for others, too
        self.waiting: list[_Call] = []


_Queue: TypeAlias = SimpleQueue[_Call | Literal["checkpoint", "stop"]]


def _settle(calls: list[_Call]) -> None:
    for call in calls:
        if call.future.done():
            continue
        if call.error is None:
            call.future.set_result(call.value)
        else:
            call.future.set_exception(call.error)


def _answer(calls: list[_Call]) -> None:
    """Hand results back, waking each event loop once."""
    loops = {call.loop for call in calls}
    for loop in loops:
        mine = calls if len(loops) == 1 else [call for call in calls if call.loop is loop]
        # A closed loop has nobody waiting on it any more, and the work itself is done.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, mine)


class Engine:
    """Runs jobs against one database file.

    `configure(connection, reader)` sets up each connection; `prepare` runs once on the writer's, first.
    With `flushes` every commit flushes the disk, so none runs on a caller's thread.
    """

    def __init__(
        self,
        path: str,
        connect: Connect,
        *,
        prepare: Callable[[Connection], None],
        configure: Callable[[Connection, bool], None],
        read_only: bool,
        readers: int,
        busy_timeout: float,
        flushes: bool,
    ) -> None:
        self._path = path
        self._connect = connect
        self._prepare = prepare
        self._configure = configure
        self._begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
        self._read_only = read_only
        self._max_readers = 0 if path == ":memory:" else readers
        self._busy_timeout = busy_timeout
        self._flushes = flushes
        # Reentrant, because a finalizer may stop the engine wherever memory is collected.
        self._lock = threading.RLock()
        self._round = _Round()
        self._reset()
        _engines.add(self)

    def _reset(self) -> None:
        self._writes: _Queue = SimpleQueue()
        self._reads: _Queue = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._readers: list[threading.Thread] = []
        self._waiting_reads = 0
        self._checkpoint_at = CHECKPOINT_PAGES
        self._log_pages = 0
        self._shared = _Shared()

    # -- asking --------------------------------------------------------------------------------------

    async def write(self, job: Job[T], kind: Kind = "transaction", *, short: bool = False) -> T:
        """Run `job` inside a write transaction that is committed when this returns.

        A "short" job changes a few rows and may run on the caller's thread. An "exclusive" one runs outside
        any transaction. The caller's cancellation does not undo a job that has begun.
        """
        call = _Call(job, kind)
        if not short or self._flushes:
            self._put_write(call)
            await call.future
        elif not self._is_alone(call):
            await call.future
        elif self._run_at_once([call]):
            if call.error is not None:
                raise call.error
        else:
            self._put_write(call)
            await call.future
        value: T = call.value
        return value

    async def read(self, job: Job[T]) -> T:
        """Run `job` on one consistent view of the database."""
        if self._shared.connection is None:
            # The writer opens first and creates or upgrades the schema, without a lock if there is no need.
            await self.write(lambda _: None, "exclusive")
        call = _Call(job, "transaction")
        if not self._max_readers:
            self._put_write(call)
        else:
            with self._lock:
                self._waiting_reads += 1
                if not self._readers or self._waiting_reads > len(self._readers) < self._max_readers:
                    self._readers.append(self._start(self._serve_reads, self._reads))
                self._reads.put(call)
        result: T = await call.future
        return result

    async def close(self) -> None:
        """Finish what was accepted, then close all connections."""
        self._end_round()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in self.stop()))

    def stop(self) -> list[threading.Thread]:
        """Tell the threads to finish and close their connections. The next operation starts others."""
        with self._lock:
            threads = self._readers
            for _ in threads:
                self._reads.put("stop")
            if self._writer is not None:
                threads = [self._writer, *threads]
                self._writes.put("stop")
            self._reset()
        return threads

    def before_fork(self) -> None:
        """Close all connections, and let nobody open one until the fork is done."""
        if self._path == ":memory:":
            self._lock.acquire()
            self._shared.lock.acquire()
            return
        while True:
            for thread in self.stop():
                thread.join()
            self._lock.acquire()
            if self._writer is None and not self._readers:
                return
            self._lock.release()

    def after_fork(self, child: bool) -> None:
        """Let operations go on. A child goes on with a copy of what is in memory."""
        if self._path == ":memory:":
            if child:  # the thread is the parent's, and so is what waits for it
                self._writes, self._writer = SimpleQueue(), None
            self._shared.lock.release()
        self._lock.release()

    def _put_write(self, call: _Call) -> None:
        with self._lock:
            if self._writer is None:
                self._writer = self._start(self._serve_writes, self._writes, self._shared)
            self._writes.put(call)

    def _start(self, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name="threadmark-sqlite", daemon=True)
        thread.start()
        return thread

    # -- the caller's thread -------------------------------------------------------------------------

    def _is_alone(self, call: _Call) -> bool:
        """Whether to run `call` at once; false if it was put with the others of this round."""
        now = self._round
        if now.loop is not call.loop:  # the first in this round
            if now.waiting:  # of a loop that was left behind: nobody waits for them
                now.waiting = []
            now.loop, now.writes = call.loop, 0
            call.loop.call_soon(self._end_round)
        now.writes += 1
        if now.crowded:
            now.waiting.append(call)
        return not now.crowded

    def _end_round(self) -> None:
        """Run the short writes of the round that has ended, together."""
        now = self._round
        now.loop, now.crowded, calls = None, now.writes > 1, now.waiting
        if not calls:
            return
        now.waiting = []
        # A caller that gave up before its turn wants nothing written.
        calls = [call for call in calls if not call.future.done()]
        if len(calls) <= MAX_ROUND and self._run_at_once(calls):
            _settle(calls)
        else:
            for call in calls:
                self._put_write(call)

    def _run_at_once(self, calls: list[_Call]) -> bool:
        """Run `calls` here if nobody else is writing; false if they have to wait."""
        shared = self._shared
        if not shared.lock.acquire(blocking=False):
            return False
        try:
            connection = shared.connection
            if connection is None or not self._writes.empty():
                return False
            connection.set_busy_timeout(0)
            try:
                connection.execute(self._begin)
            except BaseException as error:
                _rollback(connection)  # an interrupt may come after it has begun
                if isinstance(self._translated(error), StoreBusyError):
                    return False
                for call in calls:
                    call.error = self._translated(error)
                return True
            finally:
                connection.set_busy_timeout(self._busy_timeout)
            if len(calls) == 1:
                self._finish(connection, calls[0])
            else:
                self._finish_together(connection, calls)
        finally:
            shared.lock.release()
        return True

    def _finish(self, connection: Connection, call: _Call) -> None:
        """Run `call` in the transaction that has begun, and commit it."""
        try:
            call.value = call.job(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            _rollback(connection)
            call.error = self._translated(error)

    def _log_grew(self, pages: int) -> None:
        """Have the log checkpointed, again after as much more if a reader of an old state held it back."""
        self._log_pages = pages
        if pages < CHECKPOINT_PAGES:
            self._checkpoint_at = CHECKPOINT_PAGES
        elif pages >= self._checkpoint_at:
            self._checkpoint_at = pages + CHECKPOINT_PAGES
            self._writes.put("checkpoint")

    def _copy_log(self, connection: Connection) -> None:
        long = self._log_pages >= LONG_LOG_PAGES
        with contextlib.suppress(Exception):
            try:
                connection.set_busy_timeout(READERS_WAIT)
                connection.execute(f"PRAGMA wal_checkpoint({'RESTART' if long else 'PASSIVE'})")
            finally:
                connection.set_busy_timeout(self._busy_timeout)

    # -- the writer's thread -------------------------------------------------------------------------

    def _serve_writes(self, queue: _Queue, shared: _Shared) -> None:
        going = True
        while going:
            calls, checkpoint, going = _take(queue)
            with shared.lock:
                try:
                    if shared.connection is None and calls:
                        shared.connection = self._open(False)
                except BaseException as error:
                    for call in calls:
                        call.error = self._translated(error)
                if shared.connection is not None:
                    self._run(shared.connection, calls)
                    if checkpoint:
                        self._copy_log(shared.connection)
                    if not going:
                        shared.connection.close()
                        shared.connection = None
            if calls:
                _answer(calls)

    def _run(self, connection: Connection, calls: list[_Call]) -> None:
        group = [call for call in calls if call.kind == "transaction"]
        if len(group) > 1:
            self._run_together(connection, group)
        elif group:
            self._run_alone(connection, group[0])
        for call in calls:
            if call.kind == "exclusive":
                try:
                    call.value = call.job(connection)
                except BaseException as error:
                    call.error = self._translated(error)

    def _run_alone(self, connection: Connection, call: _Call) -> None:
        call.value = call.error = None
        try:
            connection.execute(self._begin)
        except BaseException as error:
            _rollback(connection)
            call.error = self._translated(error)
        else:
            self._finish(connection, call)

    def _run_together(self, connection: Connection, calls: list[_Call]) -> None:
        try:
            connection.execute(self._begin)
        except BaseException as error:
            _rollback(connection)
            for call in calls:
                call.error = self._translated(error)
        else:
            self._finish_together(connection, calls)

    def _finish_together(self, connection: Connection, calls: list[_Call]) -> None:
        """Run `calls` in the transaction that has begun, each in a savepoint, and commit it."""
        try:
            for call in calls:
                self._run_in_savepoint(connection, call)
            connection.execute("COMMIT")
        except BaseException:
            # The transaction as a whole failed (a full disk, say): each write gets its own chance.
            _rollback(connection)
            for call in calls:
                self._run_alone(connection, call)

    def _run_in_savepoint(self, connection: Connection, call: _Call) -> None:
        connection.execute("SAVEPOINT job")
        try:
            call.value = call.job(connection)
        except BaseException as error:
            if not connection.in_transaction():
                raise  # the engine rolled everything back, the other jobs' work too
            connection.execute("ROLLBACK TO job")
            call.error = self._translated(error)
        connection.execute("RELEASE job")

    # -- the readers' threads ------------------------------------------------------------------------

    def _serve_reads(self, queue: _Queue) -> None:
        connection: Connection | None = None
        while isinstance(call := queue.get(), _Call):
            try:
                if connection is None:
                    connection = self._open(True)
                connection.execute("BEGIN")
                call.value = call.job(connection)
                connection.execute("COMMIT")
            except BaseException as error:
                call.error = self._translated(error)
                if connection is not None:
                    _rollback(connection)
            with self._lock:
                if queue is self._reads:
                    self._waiting_reads -= 1
            _answer([call])
        if connection is not None:
            connection.close()

    # -- connections ---------------------------------------------------------------------------------

    def _open(self, reader: bool) -> Connection:
        """Connect, waiting for other processes that create, recover or close the file right now."""
        deadline = time.monotonic() + self._busy_timeout
        while True:
            connection = None
            try:
                # A reader opens what the writer made: a file that is gone since must not come back empty.
                mode: Mode = "read" if self._read_only else "write" if reader else "create"
                connection = self._connect(self._path, mode)
                connection.set_busy_timeout(self._busy_timeout)
                self._configure(connection, reader)
                if not reader:
                    self._prepare(connection)
                    connection.watch_log(self._log_grew)
                return connection
            except Exception as error:
                if connection is not None:
                    _rollback(connection)
                    connection.close()
                if isinstance(self._translated(error), StoreBusyError) and time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                raise

    def _translated(self, error: BaseException) -> BaseException:
        if isinstance(error, ThreadmarkError) or not isinstance(error, Exception):
            return error
        # Text that is not UTF-8 can only come from a damaged file: what goes in is checked before.
        if type(error).__module__ in ("apsw", "sqlite3") or isinstance(error, UnicodeDecodeError):
            translated = translate(error, self._path)
            translated.__cause__ = error
            return translated
        return error


# SQLite keeps its file locks in a table of its own per process. A forked child inherits that table, but not
# the locks: it would write unlocked, and lose what it writes, even through connections of its own. So no
# connection to a file may be open while a process forks.
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_forking: list[Engine] = []


def _before_fork() -> None:
    _forking.extend(_engines)
    for engine in _forking:
        engine.before_fork()


def _after_fork(child: bool) -> None:
    for engine in _forking:
        engine.after_fork(child)
    _forking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(False),
        after_in_child=lambda: _after_fork(True),
    )


def _take(queue: _Queue) -> tuple[list[_Call], bool, bool]:
    """Wait for work and take all there is: the calls, whether to checkpoint, whether to go on."""
    calls: list[_Call] = []
    checkpoint = False
    item = queue.get()
    while True:
        if item == "stop":
            return calls, checkpoint, False
        if item == "checkpoint":
            checkpoint = True
        elif isinstance(item, _Call) and not item.future.cancelled():
            calls.append(item)  # a caller that gave up before its turn wants nothing written
        if len(calls) >= MAX_GROUP:
            return calls, checkpoint, True
        try:
            item = queue.get_nowait()
        except Empty:
            return calls, checkpoint, True


def _rollback(connection: Connection) -> None:
    # A connection that cannot even roll back is beyond help; its next statement will say so.
    with contextlib.suppress(Exception):
        if connection.in_transaction():
            connection.execute("ROLLBACK")
