"""Paging by cursor: each page begins where the one before ended, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

from ..._errors import ValidationError
from ..._types import MessagePage, ThreadPage
from ...stores.base import MessageQuery, Store, ThreadQuery
from ._expect import holds, refuses, same
from ._harness import Harness
from ._registry import behaviour

Page: TypeAlias = ThreadPage | MessagePage
Between: TypeAlias = Callable[[int], Awaitable[object]]

THREADS: list[dict[str, Any]] = [
    {"order_by": field, "direction": direction}
    for field in ("created_at", "updated_at")
    for direction in ("asc", "desc")
]
MESSAGES: list[dict[str, Any]] = [
    {"thread_id": thread, "order": order} for thread in ("t", None) for order in (None, "asc", "desc")
]


async def ask(store: Store, owner: str, query: ThreadQuery | MessageQuery) -> Page:
    """The page that `query` asks for."""
    if isinstance(query, ThreadQuery):
        return await store.list_threads(owner, query)
    return await store.list_messages(owner, query)


async def walk(
    store: Store, owner: str, query: ThreadQuery | MessageQuery, between: Between | None = None
) -> list[list[str]]:
    """The ids of each page until there is no next one. `between` is awaited with the pages that were read."""
    found: list[list[str]] = []
    page = await ask(store, owner, query)
    while True:
        found.append([item.id for item in page])
        same(page.has_more, page.next_cursor is not None, "a page with more after it names the next")
        if page.next_cursor is None:
            return found
        if between is not None:
            await between(len(found))
        page = await ask(store, owner, replace(query, page=0, cursor=page.next_cursor))


async def threads(h: Harness, number: int, *, ties: bool = False) -> Store:
    """A store with threads t1..tn of "ann", of one instant with `ties`."""
    store = await h.fresh()
    at = h.clock()
    for n in range(1, number + 1):
        await store.create_thread(
            "ann", h.thread(f"t{n}", metadata={"even": n % 2 == 0}, at=at if ties else None)
        )
    return store


async def messages(h: Harness, number: int) -> Store:
    """A store with messages of one instant in thread "t" of "ann", and others beside them."""
    store = await h.fresh()
    at = h.clock()
    for n in range(1, number + 1):
        for thread in ("t", "u"):
            message = h.message(id=f"{thread}{n}", role="user" if n % 2 else "assistant")
            await store.write_turn("ann", h.turn(thread, [message], at=at))
    return store


@behaviour("paging: pages by cursor are those by number, in every order and with equal times")
async def as_by_number(h: Harness) -> None:
    for ties in (False, True):
        store = await threads(h, 7, ties=ties)
        for order in THREADS:
            query = ThreadQuery(per_page=3, **order)
            numbered = [
                [t.id for t in await store.list_threads("ann", replace(query, page=n))] for n in range(3)
            ]
            same(numbered, await walk(store, "ann", query), f"threads by {order}")
    store = await messages(h, 7)
    for order in MESSAGES:
        each = MessageQuery(per_page=3, **order)
        total = 7 if order["thread_id"] else 14
        numbered = [
            [m.id for m in await store.list_messages("ann", replace(each, page=n))]
            for n in range(-(-total // 3))
        ]
        same(numbered, await walk(store, "ann", each), f"messages by {order}")


@behaviour("paging: a page by cursor describes itself")
async def described(h: Harness) -> None:
    store = await threads(h, 5)
    first = await store.list_threads("ann", ThreadQuery(per_page=2))
    same((5, 0, 2, True), (first.total, first.page, first.per_page, first.has_more), "the first page")
    await store.create_thread("ann", h.thread("late"))
    second = await store.list_threads("ann", ThreadQuery(per_page=2, cursor=first.next_cursor))
    same(
        (5, 0, 2, True),
        (second.total, second.page, second.per_page, second.has_more),
        "the second page tells the total that the first counted",
    )
    rest = await store.list_threads("ann", ThreadQuery(per_page=None, cursor=second.next_cursor))
    same(
        (["t1"], None, False, None),
        ([t.id for t in rest], rest.per_page, rest.has_more, rest.next_cursor),
        "per_page=None after a cursor is all that is left",
    )
    none = await store.list_threads("ann", ThreadQuery(per_page=0, cursor=first.next_cursor))
    same(((), False, None), (none.threads, none.has_more, none.next_cursor), "pages of size 0 end at once")
    whole = await store.list_threads("ann", ThreadQuery(per_page=6))
    same((False, None), (whole.has_more, whole.next_cursor), "a page that holds all names no next one")


@behaviour("paging: filters hold on every page by cursor")
async def filtered(h: Harness) -> None:
    store = await threads(h, 9)
    for n in range(9):
        await store.create_thread("bob", h.thread(f"t{n}", metadata={"even": True}))
    found = await walk(store, "ann", ThreadQuery(per_page=3, metadata={"even": True}))
    same([["t8", "t6", "t4"], ["t2"]], found, "only what matches, and only this owner's")
    store = await messages(h, 9)
    query = MessageQuery(thread_id="t", per_page=3, order="asc", roles=("user",))
    same([["t1", "t3", "t5"], ["t7", "t9"]], await walk(store, "ann", query), "only these roles")


@behaviour("paging: threads that come and go between pages make none come twice and none missing")
async def threads_change(h: Harness) -> None:
    for direction in ("asc", "desc"):
        store = await threads(h, 9, ties=True)
        at = (await store.list_threads("ann", ThreadQuery(per_page=1))).threads[0].created_at

        async def between(read: int, store: Store = store, at: Any = at) -> None:
            await store.create_thread("ann", h.thread(f"new{read}", at=at))
            # The last one of the page that was read goes, too: a cursor is a place, not a row.
            await store.delete_thread("ann", "t3" if read == 1 else "t7")

        query = ThreadQuery(per_page=3, direction=direction)
        found = [id_ for page in await walk(store, "ann", query, between) for id_ in page]
        stayed = [id_ for id_ in found if not id_.startswith("new")]
        same(len(found), len(set(found)), f"{direction}: no thread comes twice")
        left = [f"t{n}" for n in range(1, 10) if f"t{n}" not in ("t3", "t7")]
        for id_ in left:
            holds(id_ in stayed, f"{direction}: {id_}, which was there throughout, must come")


@behaviour("paging: by change, a thread that changes between pages leaves the others in place")
async def threads_move(h: Harness) -> None:
    for direction in ("asc", "desc"):
        store = await threads(h, 9)

        async def between(read: int, store: Store = store) -> None:
            if read == 1:
                await store.update_thread("ann", "t5", h.change(title="moved"))

        query = ThreadQuery(per_page=3, order_by="updated_at", direction=direction)
        found = [id_ for page in await walk(store, "ann", query, between) for id_ in page]
        others = [f"t{n}" for n in range(1, 10) if n != 5]
        same(
            others if direction == "asc" else others[::-1],
            [id_ for id_ in found if id_ != "t5"],
            f"{direction}: the threads that did not change come once each, in order",
        )


@behaviour("paging: messages written and deleted between pages make none come twice and none missing")
async def messages_change(h: Harness) -> None:
    for order in MESSAGES:
        store = await messages(h, 9)

        async def between(read: int, store: Store = store) -> None:
            await store.write_turn("ann", h.turn("t", [h.message(id=f"new{read}")]))
            await store.delete_messages("ann", "t", [f"t{read * 2}"], h.clock())

        query = MessageQuery(per_page=4, **order)
        found = [id_ for page in await walk(store, "ann", query, between) for id_ in page]
        same(len(found), len(set(found)), f"{order}: no message comes twice")
        gone = {f"t{2 * read}" for read in range(1, 6)}
        for n in range(1, 10):
            if f"t{n}" not in gone:
                holds(f"t{n}" in found, f"{order}: t{n}, which was there throughout, must come")


@behaviour("paging: while writers write, walks give what was there from the beginning, each once")
async def while_writing(h: Harness) -> None:
    store = await messages(h, 20)
    done = asyncio.Event()

    async def write(label: str) -> None:
        n = 0
        while not done.is_set():
            n += 1
            await store.write_turn("ann", h.turn(label if n % 2 else "t", [h.message(id=f"{label}-{n}")]))
            await asyncio.sleep(0)

    writers = [asyncio.create_task(write(label)) for label in ("w1", "w2")]
    try:
        for order in MESSAGES * 2:
            found = [
                id_ for page in await walk_some(store, MessageQuery(per_page=7, **order)) for id_ in page
            ]
            same(len(found), len(set(found)), f"{order}: no message comes twice")
            if order["order"] != "asc":  # ascending walks may follow the writers as far as they like
                expected = {f"t{n}" for n in range(1, 21)}
                same(set(), expected - set(found), f"{order}: none is missing")
    finally:
        done.set()
        await asyncio.gather(*writers)


async def walk_some(store: Store, query: MessageQuery) -> list[list[str]]:
    """`walk`, but for ten pages at most where writers add to the end."""
    found: list[list[str]] = []
    cursor: str | None = None
    while not found or (cursor is not None and (query.order != "asc" or len(found) < 10)):
        page = await store.list_messages("ann", replace(query, cursor=cursor))
        found.append([message.id for message in page])
        cursor = page.next_cursor
    return found


@behaviour("paging: a cursor of another list, another owner or none of ours is refused")
async def refused(h: Harness) -> None:
    store = await threads(h, 5)
    await store.create_thread("bob", h.thread("t1"))
    given = (await store.list_threads("ann", ThreadQuery(per_page=2))).next_cursor
    assert given is not None
    changed = given[:10] + ("A" if given[10] != "A" else "B") + given[11:]
    for query in (
        ThreadQuery(cursor=given, direction="asc"),
        ThreadQuery(cursor=given, order_by="updated_at"),
        ThreadQuery(cursor=given, metadata={"even": True}),
        ThreadQuery(cursor="x"),
        ThreadQuery(cursor="é"),
        ThreadQuery(cursor="e30"),
        ThreadQuery(cursor="W10"),
        ThreadQuery(cursor=changed),
        ThreadQuery(cursor=given * 50),
    ):
        await refuses(ValidationError, store.list_threads("ann", query), f"threads with {query}")
    await refuses(
        ValidationError, store.list_threads("bob", ThreadQuery(cursor=given)), "another owner's cursor"
    )
    await refuses(
        ValidationError, store.list_messages("ann", MessageQuery(cursor=given)), "a cursor of threads"
    )
    for bad in ({"cursor": ""}, {"cursor": 1}, {"cursor": given, "page": 1}):
        fields: dict[str, Any] = dict(bad)

        async def run(fields: dict[str, Any] = fields) -> object:
            return await store.list_threads("ann", ThreadQuery(**fields))

        await refuses(ValidationError, run(), f"ThreadQuery({sorted(fields)})")
