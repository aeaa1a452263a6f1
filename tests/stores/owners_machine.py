"""What two owners may do, through the public handles and on a plain model, and that both sides agree."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from model_store import ModelStore

from threadmark import Memory
from threadmark._errors import ConflictError, NotFoundError, ThreadmarkError
from threadmark._types import ErasureReceipt, Message, MessagePage, Role, TextPart
from threadmark.memory.resource import Resource
from threadmark.memory.threads import ThreadHandle
from threadmark.stores.base import (
    Claim,
    CloneRequest,
    MessageChange,
    MessageQuery,
    RunWrite,
    Store,
    ThreadChange,
    ThreadQuery,
    TurnQuery,
    TurnWrite,
    WorkingMemoryWrite,
)
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing._clock import FakeClock
from threadmark.testing.conformance import Builders, dump, same

OWNERS = ("ann", "bob")
owners = st.sampled_from(OWNERS)
threads = st.sampled_from(["t1", "t2", "t3"])
message_ids = st.sampled_from(["m1", "m2", "m3", "m4", "m5"])
runs = st.sampled_from(["r1", "r2"])
keys = st.sampled_from(["a", "b"])
values = st.sampled_from([None, True, 1, 1.0, "1", {"a": [1]}])
metadata = st.dictionaries(keys, values, max_size=2)
scalars = st.dictionaries(keys, st.sampled_from([None, True, 1, 1.0, "1"]), max_size=1)
titles = st.sampled_from(["", "one", "two"])
roles: st.SearchStrategy[Role] = st.sampled_from(["user", "user", "assistant", "system"])
versions = st.integers(0, 3)
sizes = st.one_of(st.none(), st.integers(0, 3))


@st.composite
def batches(draw: st.DrawFn) -> list[Message]:
    """Messages of colliding ids."""
    return [
        Message(
            id=draw(message_ids), text=draw(st.text(max_size=3)), role=draw(roles), metadata=draw(metadata)
        )
        for _ in range(draw(st.integers(0, 3)))
    ]


class Machine(RuleBasedStateMachine):
    """The handles on one side, the model on the other."""

    driver = "apsw"
    in_memory = False

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="threadmark-machine-"))
        self.store = self.make_store()
        self.clock = FakeClock()
        self.memory = Memory(self.store, clock=self.clock)
        self.model = ModelStore()
        self.build = Builders(self.clock)
        self.touched: set[str] = set()
        self.claimed: dict[str, list[Claim]] = {}
        for owner in OWNERS:
            first = [Message(id=id_, text=f"{owner}'s {id_}") for id_ in ("m1", "m2")]
            self.save(owner, "t1", first, create=True)
        self.before = {owner: self.run(dump(self.store, owner)) for owner in OWNERS}

    def make_store(self) -> Store:
        path = None if self.in_memory else str(self.folder / "machine.db")
        return SQLiteStore(path, driver=self.driver)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.store.aclose())
            self.loop.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run(work)

    def outcome(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """The result, or the class of the error that the contract knows.

        `NotFoundError` and `ConflictError` count as one: of two reasons to refuse, either may be told.
        """

        async def attempt() -> Any:
            try:
                return await work()
            except (NotFoundError, ConflictError):
                return "refused"
            except ThreadmarkError as error:
                return type(error)

        return plain(self.run(attempt()))

    def both(
        self,
        name: str,
        real: Callable[[], Awaitable[Any]],
        model: Callable[[], Awaitable[Any]],
        touches: tuple[str, ...] = (),
    ) -> Any:
        """Do it on both sides and compare what they give."""
        found = self.outcome(real)
        same(self.outcome(model), found, f"{name}: the handles differ from the model")
        self.touched.update(touches)
        return found

    def owner(self, owner: str) -> Resource:
        return self.memory.resource(owner)

    def thread(self, owner: str, thread: str) -> ThreadHandle:
        return self.memory.resource(owner).thread(thread)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        for owner in OWNERS:
            now = self.run(dump(self.store, owner))
            same(self.run(dump(self.model, owner)), now, f"what {owner} has differs from the model")
            if owner not in self.touched:
                same(self.before[owner], now, f"{owner} had no part in this, and something changed")
            self.before[owner] = now
        self.touched.clear()

    # -- time and life -----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 1, 60, -1, 0.000001]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def reopen(self) -> None:
        if not self.in_memory:
            self.run(self.store.aclose())

    # -- threads -----------------------------------------------------------------------------------------

    @rule(owner=owners, thread=threads, title=titles, metadata=metadata)
    def create(self, owner: str, thread: str, title: str, metadata: dict[str, Any]) -> None:
        self.both(
            "create",
            lambda: self.owner(owner).threads.create(thread, title=title, metadata=metadata),
            lambda: self.model.create_thread(
                owner, self.build.thread(thread, title=title, metadata=metadata)
            ),
            (owner,),
        )

    @rule(
        owner=owners,
        thread=threads,
        title=st.one_of(st.none(), titles),
        metadata=st.one_of(st.none(), metadata),
        remove=st.lists(keys, max_size=2),
        if_version=st.one_of(st.none(), st.integers(1, 4)),
    )
    def update(self, owner: str, thread: str, remove: list[str], **rest: Any) -> None:
        self.both(
            "update",
            lambda: self.thread(owner, thread).update(remove=remove, **rest),
            lambda: self.model.update_thread(
                owner, thread, ThreadChange(now=self.clock(), remove=tuple(remove), **rest)
            ),
            (owner,),
        )

    @rule(owner=owners, thread=threads, title=titles)
    def name_untitled(self, owner: str, thread: str, title: str) -> None:
        change = self.build.change(title=title, title_source="generated", if_untitled=True)
        self.both(
            "name",
            lambda: self.store.update_thread(owner, thread, change),
            lambda: self.model.update_thread(owner, thread, change),
            (owner,),
        )

    @rule(owner=owners, thread=threads)
    def delete(self, owner: str, thread: str) -> None:
        self.both(
            "delete",
            lambda: self.thread(owner, thread).delete(),
            lambda: self.model.delete_thread(owner, thread),
            (owner,),
        )

    @rule(
        owner=owners,
        page=st.integers(0, 2),
        per_page=st.integers(0, 2),
        everything=st.booleans(),
        metadata=scalars,
        order_by=st.sampled_from(["created_at", "updated_at"]),
        direction=st.sampled_from(["asc", "desc"]),
    )
    def list_threads(self, owner: str, page: int, per_page: int, everything: bool, **rest: Any) -> None:
        paging: dict[str, Any] = (
            {"page": 0, "per_page": None} if everything else {"page": page, "per_page": per_page}
        )
        self.both(
            "list",
            lambda: self.owner(owner).threads.list(**paging, **rest),
            lambda: self.model.list_threads(owner, ThreadQuery(**paging, **rest)),
        )

    # -- messages ----------------------------------------------------------------------------------------

    @rule(owner=owners, thread=threads, batch=batches(), create=st.booleans())
    def save(self, owner: str, thread: str, batch: list[Message], create: bool) -> None:
        async def model() -> Any:
            write = TurnWrite(thread_id=thread, now=self.clock(), messages=batch, create=create)
            return list((await self.model.write_turn(owner, write)).messages)

        self.both("save", lambda: self.thread(owner, thread).save(batch, create=create), model, (owner,))

    @rule(
        owner=owners,
        thread=threads,
        ids=st.lists(message_ids, max_size=3),
        text=st.one_of(st.none(), st.text(max_size=3)),
        metadata=st.one_of(st.none(), metadata),
        remove=st.lists(keys, max_size=1),
    )
    def edit(self, owner: str, thread: str, ids: list[str], text: str | None, **rest: Any) -> None:
        parts = None if text is None else (TextPart(text),)
        remove = tuple(rest.pop("remove"))
        changes = [MessageChange(id=id_, parts=parts, remove=remove, **rest) for id_ in ids]

        self.both(
            "edit",
            lambda: in_order(self.thread(owner, thread).update_messages(changes)),
            lambda: in_order(self.model.update_messages(owner, thread, changes, self.clock())),
            (owner,),
        )

    @rule(owner=owners, thread=threads, ids=st.lists(message_ids, max_size=3))
    def delete_messages(self, owner: str, thread: str, ids: list[str]) -> None:
        self.both(
            "delete messages",
            lambda: self.thread(owner, thread).delete_messages(ids),
            lambda: self.model.delete_messages(owner, thread, ids, self.clock()),
            (owner,),
        )

    @rule(
        owner=owners,
        thread=threads,
        page=st.integers(0, 2),
        per_page=st.integers(0, 3),
        everything=st.booleans(),
        order=st.sampled_from([None, "asc", "desc"]),
        metadata=scalars,
        roles=st.sampled_from([(), ("user",), ("user", "assistant")]),
        bounds=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    )
    def list_messages(
        self,
        owner: str,
        thread: str,
        page: int,
        per_page: int,
        everything: bool,
        bounds: tuple[bool, bool, bool, bool],
        **rest: Any,
    ) -> None:
        since, until, exclude_since, exclude_until = bounds
        query: dict[str, Any] = {
            "page": 0 if everything else page,
            "per_page": None if everything else per_page,
            "since": self.clock() if since else None,
            "until": self.clock() if until else None,
            "exclude_since": exclude_since,
            "exclude_until": exclude_until,
            **rest,
        }
        self.both(
            "messages",
            lambda: self.thread(owner, thread).messages(**query),
            lambda: self.model.list_messages(owner, MessageQuery(thread_id=thread, **query)),
        )

    @rule(owner=owners, metadata=scalars)
    def list_all_messages(self, owner: str, metadata: dict[str, Any]) -> None:
        def by_time(page: MessagePage) -> Any:
            # Between threads nothing but time decides here.
            found = sorted(page.messages, key=lambda m: (str(m.created_at), str(m.thread_id), m.seq or 0))
            return found, [m.created_at for m in page.messages], page.total

        async def real() -> Any:
            return by_time(await self.owner(owner).messages(per_page=None, metadata=metadata))

        async def model() -> Any:
            return by_time(await self.model.list_messages(owner, MessageQuery(metadata=metadata)))

        self.both("all messages", real, model)

    @rule(
        owner=owners,
        thread=threads,
        ids=st.lists(message_ids, min_size=1, max_size=3),
        before=st.integers(0, 2),
        after=st.integers(0, 2),
    )
    def around(self, owner: str, thread: str, ids: list[str], before: int, after: int) -> None:
        async def real() -> Any:
            page = await self.thread(owner, thread).messages(around=ids, before=before, after=after)
            return list(page.messages)

        self.both(
            "around",
            real,
            lambda: self.model.get_messages(owner, ids, thread_id=thread, before=before, after=after),
        )

    @rule(owner=owners, id_=message_ids)
    def one_message(self, owner: str, id_: str) -> None:
        async def model() -> Any:
            return next(iter(await self.model.get_messages(owner, [id_])), None)

        self.both("message", lambda: self.owner(owner).message(id_), model)

    # -- turns and runs ----------------------------------------------------------------------------------

    @rule(
        owner=owners,
        thread=threads,
        batch=batches(),
        title=titles,
        metadata=metadata,
        run=st.one_of(st.none(), runs),
        if_version=versions,
        remember=st.one_of(st.none(), st.tuples(st.sampled_from([None, "t1", "t2", "t3"]), versions)),
    )
    def turn(
        self,
        owner: str,
        thread: str,
        batch: list[Message],
        title: str,
        metadata: dict[str, Any],
        run: str | None,
        if_version: int,
        remember: tuple[str | None, int] | None,
    ) -> None:
        write = TurnWrite(
            thread_id=thread,
            now=self.clock(),
            messages=batch,
            title=title,
            metadata=metadata,
            run=None
            if run is None
            else RunWrite(
                id=run,
                agent="a",
                status="running",
                started_at=self.clock(),
                if_version=if_version,
                state=metadata,
            ),
            working_memory=None
            if remember is None
            else WorkingMemoryWrite(
                thread_id=remember[0], content=title, if_version=remember[1], changed_by="agent"
            ),
        )
        self.both(
            "turn",
            lambda: self.store.write_turn(owner, write),
            lambda: self.model.write_turn(owner, write),
            (owner,),
        )

    @rule(
        owner=owners,
        thread=threads,
        last=sizes,
        known=st.lists(message_ids, max_size=2),
        run=st.one_of(st.none(), runs),
        scope=st.sampled_from([None, "resource", "thread"]),
    )
    def read_turn(
        self,
        owner: str,
        thread: str,
        last: int | None,
        known: list[str],
        run: str | None,
        scope: Literal["resource", "thread"] | None,
    ) -> None:
        query = TurnQuery(
            thread_id=thread, last=last, known_ids=tuple(known), run_id=run, working_memory=scope
        )
        self.both(
            "read turn",
            lambda: self.store.read_turn(owner, query),
            lambda: self.model.read_turn(owner, query),
        )

    @rule(owner=owners, thread=threads, page=st.integers(0, 1), per_page=st.integers(0, 2))
    def list_runs(self, owner: str, thread: str, page: int, per_page: int) -> None:
        self.both(
            "runs",
            lambda: self.thread(owner, thread).runs(page, per_page),
            lambda: self.model.list_runs(owner, thread_id=thread, page=page, per_page=per_page),
        )
        self.both(
            "all runs",
            lambda: self.owner(owner).runs(page, per_page),
            lambda: self.model.list_runs(owner, page=page, per_page=per_page),
        )

    @rule(owner=owners, run=runs)
    def one_run(self, owner: str, run: str) -> None:
        self.both("run", lambda: self.owner(owner).run(run), lambda: self.model.get_run(owner, run))

    @rule(owner=owners, thread=st.one_of(st.none(), threads), if_version=versions)
    def remember(self, owner: str, thread: str | None, if_version: int) -> None:
        write = self.build.remember("x", thread_id=thread, if_version=if_version)
        self.both(
            "remember",
            lambda: self.store.write_working_memory(owner, write, self.clock()),
            lambda: self.model.write_working_memory(owner, write, self.clock()),
            (owner,),
        )

    # -- clones, transfer, erasure ----------------------------------------------------------------------

    @rule(
        owner=owners,
        thread=threads,
        to=st.one_of(st.none(), owners),
        new=threads,
        title=st.one_of(st.none(), titles),
        metadata=metadata,
        last=sizes,
        message_ids=st.one_of(st.none(), st.lists(message_ids, max_size=3)),
    )
    def clone(self, owner: str, thread: str, to: str | None, new: str, **rest: Any) -> None:
        made: Iterator[str] = iter(())

        async def real() -> Any:
            nonlocal made
            if to is None:
                clone = await self.thread(owner, thread).clone(new, **rest)
            else:
                clone = await self.memory.admin.clone(thread, to=to, owner=owner, id=new, **rest)
            made = iter(clone.id_map.values())  # the model copies under the ids that were made
            return clone

        async def model() -> Any:
            chosen = rest.pop("message_ids")
            request = CloneRequest(
                id=new,
                now=self.clock(),
                new_id=lambda: next(made),
                message_ids=None if chosen is None else tuple(chosen),
                owner=to,
                **rest,
            )
            return await self.model.clone_thread(owner, thread, request)

        self.both("clone", real, model, (to or owner,))

    @rule(owner=owners, thread=threads)
    def ancestry(self, owner: str, thread: str) -> None:
        handle = self.thread(owner, thread)
        self.both("history", handle.history, lambda: self.model.clone_history(owner, thread))
        self.both("clones", handle.clones, lambda: self.model.list_clones(owner, thread))
        self.both(
            "all clones",
            lambda: self.memory.admin.clones(thread, owner=owner),
            lambda: self.model.list_clones(owner, thread, all_owners=True),
        )

    @rule(owner=owners, thread=threads, to=owners)
    def transfer(self, owner: str, thread: str, to: str) -> None:
        self.both(
            "transfer",
            lambda: self.memory.admin.transfer(thread, to=to, owner=owner),
            lambda: self.model.transfer_thread(owner, thread, to, self.clock()),
            (owner, to),
        )

    @rule(owner=owners, thread=threads, scrub=st.sampled_from([False, False, False, True]))
    def erase_thread(self, owner: str, thread: str, scrub: bool) -> None:
        self.both(
            "erase a thread",
            lambda: self.thread(owner, thread).erase(scrub=scrub),
            lambda: self.model.erase(owner, thread_id=thread, now=self.clock()),
            OWNERS,  # a clone of it loses its source, whoever has it
        )

    @rule(owner=owners)
    def erase_owner(self, owner: str) -> None:
        self.both(
            "erase an owner",
            lambda: self.owner(owner).erase(scrub=False),
            lambda: self.model.erase(owner, now=self.clock()),
            OWNERS,
        )

    @rule(thread=threads, after=st.sampled_from(["", "ann", "b", "z"]), limit=st.integers(1, 2))
    def administer(self, thread: str, after: str, limit: int) -> None:
        self.both(
            "resources",
            lambda: self.memory.admin.resources(after=after, limit=limit),
            lambda: self.model.list_owners(after=after, limit=limit),
        )
        self.both("owners", lambda: self.memory.admin.owners(thread), lambda: self.model.find_owners(thread))


async def in_order(work: Awaitable[list[Message]]) -> list[Message]:
    """Messages by their place: the contract does not say in which order changed ones are returned."""
    return sorted(await work, key=lambda message: message.seq or 0)


def plain(value: Any) -> Any:
    """What the two sides must agree on: of a receipt not whether bytes are gone, nor what is derived."""
    if isinstance(value, ErasureReceipt):
        removed = {table: n for table, n in value.removed.items() if n and not table.startswith("recall")}
        return value.resource_id, value.thread_id, removed, value.erased_at
    return value


def run(machine: type[Machine], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )
