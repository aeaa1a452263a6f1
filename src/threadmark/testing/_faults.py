"""Faults on purpose: a store, or a database driver, that fails, dies or dawdles where a test wants it to."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from .._errors import StoreError
from ..stores.base import Store

if TYPE_CHECKING:
    from ..stores.sqlite._driver import Connection, Mode, Row

When = Literal["before", "after"]
OPERATIONS = frozenset(
    name for name in dir(Store) if not name.startswith("_") and iscoroutinefunction(getattr(Store, name))
)
"""The operations of a store, those that rest on a capability too."""

_Method = TypeVar("_Method", bound=Callable[..., Awaitable[Any]])


def die() -> None:
    """End this process at once with SIGKILL: nothing is flushed, closed or rolled back."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(slots=True)
class Call:
    """One call that reached a `FaultyStore`.

    `done` tells whether the inner store finished it, `error` what the caller got instead of a result. A
    write with both `done` and an `error` is stored, and its caller does not know.
    """

    operation: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    done: bool = False
    error: BaseException | None = None


@dataclass(slots=True)
class _Fault:
    operation: str
    when: When
    nth: int | None
    act: Callable[[Call], Awaitable[None]]
    seen: int = field(default=0)

    def due(self, operation: str, when: When) -> bool:
        """Count the call, if it is one of ours, and say whether this is the one to spoil."""
        if when != self.when or self.operation not in ("*", operation):
            return False
        self.seen += 1
        return self.nth is None or self.seen == self.nth


def _through(method: _Method) -> _Method:
    """A method of the same name and signature that passes through `FaultyStore._call`."""
    name = cast(Any, method).__name__

    @wraps(method)
    async def call(self: FaultyStore, *args: Any, **kwargs: Any) -> Any:
        return await self._call(name, args, kwargs)

    cast(Any, call).__isabstractmethod__ = False  # `wraps` copies the mark along with the docstring
    return cast(_Method, call)


class FaultyStore(Store):
    """Any `Store`, with faults where a test asks for them; otherwise it behaves as the inner one.

    `operation` is the name of a `Store` method or "*" for any. `when="before"` acts instead of the inner
    call; `when="after"` acts once the inner call is done, so that an error there is a lost
    acknowledgement: the write is stored, and the caller is told that it failed. `nth` counts the matching
    calls from the arming of the fault on: 1 is the next, `None` every one. `calls` records what came in.

        store = FaultyStore(SQLiteStore("chat.db"))
        store.fail("write_turn", when="after")
    """

    def __init__(self, store: Store) -> None:
        self.inner = store
        self.calls: list[Call] = []
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        vars(self)["capabilities"] = store.capabilities

    def __getattr__(self, name: str) -> Any:
        """What the inner store offers beyond the contract."""
        if name == "inner":  # not there yet: a lookup would come back here for ever
            raise AttributeError(name)
        return getattr(self.inner, name)

    # -- arming --------------------------------------------------------------------------------------

    def fail(
        self,
        operation: str,
        *,
        when: When = "before",
        error: BaseException | None = None,
        nth: int | None = 1,
    ) -> None:
        """Raise `error` (a `StoreError` unless given)."""

        async def act(call: Call) -> None:
            raise StoreError(f"injected fault {when} {call.operation}") if error is None else error

        self._arm(operation, when, nth, act)

    def kill(self, operation: str, *, when: When = "before", nth: int | None = 1) -> None:
        """End this process at once with SIGKILL: nothing is flushed, closed or rolled back."""

        async def act(call: Call) -> None:
            die()

        self._arm(operation, when, nth, act)

    def delay(self, operation: str, seconds: float, *, when: When = "before", nth: int | None = None) -> None:
        """Wait `seconds` and go on; every time, unless `nth` says which."""

        async def act(call: Call) -> None:
            await asyncio.sleep(seconds)

        self._arm(operation, when, nth, act)

    def clear(self) -> None:
        """Disarm every fault. `calls` stays."""
        with self._lock:
            self._faults.clear()

    def _arm(
        self, operation: str, when: When, nth: int | None, act: Callable[[Call], Awaitable[None]]
    ) -> None:
        # A fault that can never fire would let a test pass that tests nothing.
        if operation != "*" and operation not in OPERATIONS:
            raise ValueError(f"a store has no operation {operation!r}")
        if when not in ("before", "after"):
            raise ValueError(f"when must be 'before' or 'after', not {when!r}")
        if nth is not None and nth < 1:
            raise ValueError(f"nth counts from 1, not {nth!r}")
        with self._lock:
            self._faults.append(_Fault(operation, when, nth, act))

    # -- the contract --------------------------------------------------------------------------------

    async def _call(self, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = Call(operation, args, kwargs)
        self.calls.append(call)
        try:
            await self._act(call, "before")
            result = await getattr(self.inner, operation)(*args, **kwargs)
            call.done = True
            await self._act(call, "after")
        except BaseException as error:
            call.error = error
            raise
        return result

    async def _act(self, call: Call, when: When) -> None:
        with self._lock:
            due = [fault for fault in self._faults if fault.due(call.operation, when)]
        for fault in due:
            await fault.act(call)

    open = _through(Store.open)
    aclose = _through(Store.aclose)
    create_thread = _through(Store.create_thread)
    get_thread = _through(Store.get_thread)
    list_threads = _through(Store.list_threads)
    update_thread = _through(Store.update_thread)
    delete_thread = _through(Store.delete_thread)
    clone_thread = _through(Store.clone_thread)
    clone_history = _through(Store.clone_history)
    list_clones = _through(Store.list_clones)
    transfer_thread = _through(Store.transfer_thread)
    list_messages = _through(Store.list_messages)
    get_messages = _through(Store.get_messages)
    update_messages = _through(Store.update_messages)
    delete_messages = _through(Store.delete_messages)
    read_turn = _through(Store.read_turn)
    write_turn = _through(Store.write_turn)
    get_run = _through(Store.get_run)
    list_runs = _through(Store.list_runs)
    renew_run = _through(Store.renew_run)
    get_working_memory = _through(Store.get_working_memory)
    list_working_memory = _through(Store.list_working_memory)
    write_working_memory = _through(Store.write_working_memory)
    erase = _through(Store.erase)
    erase_speaker = _through(Store.erase_speaker)
    list_owners = _through(Store.list_owners)
    find_owners = _through(Store.find_owners)
    recall_state = _through(Store.recall_state)
    enable_recall = _through(Store.enable_recall)
    disable_recall = _through(Store.disable_recall)
    backfill_recall = _through(Store.backfill_recall)
    search_messages = _through(Store.search_messages)
    match_messages = _through(Store.match_messages)
    search_observations = _through(Store.search_observations)
    search_threads = _through(Store.search_threads)
    list_speakers = _through(Store.list_speakers)
    add_space = _through(Store.add_space)
    drop_space = _through(Store.drop_space)
    claim_embeddings = _through(Store.claim_embeddings)
    store_embeddings = _through(Store.store_embeddings)
    fail_embeddings = _through(Store.fail_embeddings)
    read_observations = _through(Store.read_observations)
    list_observations = _through(Store.list_observations)
    claim_observation_job = _through(Store.claim_observation_job)
    commit_observations = _through(Store.commit_observations)
    fail_observation_job = _through(Store.fail_observation_job)
    activate_observations = _through(Store.activate_observations)
    retire_observations = _through(Store.retire_observations)
    list_observation_jobs = _through(Store.list_observation_jobs)


class FaultyDriver:
    """SQLite's driver, with faults between its statements.

    Give it to the store as `SQLiteStore(path, driver=FaultyDriver())`. `statements` lists the SQL that was
    begun, in order, on all the store's connections, since it was made or `reset`; the rows of an
    `executemany` count one by one. The n-th statement from the arming on, counted from 1, is the one
    spoilt: `when="before"` it reaches SQLite, or "after" it was done. Faults are one-shot.
    """

    def __init__(self, driver: str = "apsw") -> None:
        from ..stores.sqlite._driver import find_driver

        self.statements: list[str] = []
        self._connect = find_driver(driver)
        self._faults: list[_StatementFault] = []
        self._lock = threading.Lock()

    def __call__(self, path: str, mode: Mode) -> Connection:
        """Open a connection: what the store does with its driver."""
        return _FaultyConnection(self, self._connect(path, mode))

    def fail(self, nth: int, *, when: When = "before", error: Exception | None = None) -> None:
        """Raise `error` (a `StoreError` unless given) at the n-th statement."""

        def act(sql: str) -> None:
            raise StoreError(f"injected fault {when} {sql[:60]!r}") if error is None else error

        self.act(nth, act, when=when)

    def kill(self, nth: int, *, when: When = "before") -> None:
        """End this process with SIGKILL at the n-th statement."""
        self.act(nth, lambda sql: die(), when=when)

    def act(self, nth: int, action: Callable[[str], None], *, when: When = "before") -> None:
        """Call `action(sql)` at the n-th statement, on the thread that runs it."""
        if nth < 1:
            raise ValueError(f"nth counts from 1, not {nth!r}")
        with self._lock:
            self._faults.append(_StatementFault(len(self.statements) + nth, when, action))

    def reset(self) -> None:
        """Disarm every fault and forget the statements."""
        with self._lock:
            self._faults.clear()
            self.statements.clear()

    def begun(self, sql: str) -> int:
        """Count a statement that is about to run; its number."""
        with self._lock:
            self.statements.append(sql)
            number = len(self.statements)
        self.at(number, sql, "before")
        return number

    def at(self, number: int, sql: str, when: When) -> None:
        """Do what is armed for this point."""
        with self._lock:
            due = [fault for fault in self._faults if fault.number == number and fault.when == when]
            self._faults = [fault for fault in self._faults if fault not in due]
        for fault in due:
            fault.action(sql)


@dataclass(frozen=True, slots=True)
class _StatementFault:
    number: int
    when: When
    action: Callable[[str], None]


class _FaultyConnection:
    def __init__(self, driver: FaultyDriver, connection: Connection) -> None:
        self._driver = driver
        self._connection = connection
        self.changes = connection.changes
        self.in_transaction = connection.in_transaction
        self.set_busy_timeout = connection.set_busy_timeout
        self.watch_log = connection.watch_log
        self.close = connection.close

    def execute(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        number = self._driver.begun(sql)
        rows = self._connection.execute(sql, params)
        self._driver.at(number, sql, "after")
        return rows

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        def counted() -> Iterator[Sequence[object]]:
            for row in rows:
                number = self._driver.begun(sql)
                yield row  # the engine runs the statement before it asks for the next row
                self._driver.at(number, sql, "after")

        self._connection.executemany(sql, counted())
