"""Reading messages: order, pages, bounds and filters."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from ..._errors import ValidationError
from ..._types import Message, MessagePage, Speaker
from ...stores.base import Direction, MessageQuery, Store, TurnQuery
from ._expect import refuses, same
from ._harness import Harness
from ._registry import behaviour
from .listing import KINDS, MATCHES


def texts(page: MessagePage) -> list[str]:
    return [message.text for message in page]


def span(first: int, last: int) -> list[str]:
    """The texts "first" to "last", backwards if `first` is greater."""
    step = 1 if first <= last else -1
    return [str(n) for n in range(first, last + step, step)]


async def thread_of(h: Harness, number: int) -> Store:
    """A store with a thread "t1" of "ann" whose messages read "1" to "<number>"."""
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", h.messages(number)))
    return store


@behaviour("order: pages count from the newest, and each reads oldest first")
async def newest(h: Harness) -> None:
    store = await thread_of(h, 25)
    for page, per_page, expected, more in (
        (0, 10, span(16, 25), True),
        (1, 10, span(6, 15), True),
        (2, 10, span(1, 5), False),
        (3, 10, [], False),
        (1, 5, span(16, 20), True),
        (4, 5, span(1, 5), False),
        (0, 25, span(1, 25), False),
    ):
        found = await store.list_messages("ann", MessageQuery(thread_id="t1", page=page, per_page=per_page))
        same(expected, texts(found), f"page {page} of {per_page}")
        same(
            (25, page, per_page, more), (found.total, found.page, found.per_page, found.has_more), "its facts"
        )


@behaviour("order: without paging all messages, oldest first")
async def unpaged(h: Harness) -> None:
    store = await thread_of(h, 150)
    found = await store.list_messages("ann", MessageQuery(thread_id="t1"))
    same(span(1, 150), texts(found), "all of them")
    same((150, 0, None, False), (found.total, found.page, found.per_page, found.has_more), "one page")


@behaviour("order: asc counts from the oldest, desc from the newest and is really descending")
async def directions(h: Harness) -> None:
    store = await thread_of(h, 12)
    for order, page, per_page, expected in (
        ("asc", 0, 5, span(1, 5)),
        ("asc", 2, 5, span(11, 12)),
        ("desc", 0, 5, span(12, 8)),
        ("desc", 2, 5, span(2, 1)),
        ("asc", 0, None, span(1, 12)),
        ("desc", 0, None, span(12, 1)),
    ):
        query = MessageQuery(thread_id="t1", order=cast(Direction, order), page=page, per_page=per_page)
        same(expected, texts(await store.list_messages("ann", query)), f"{order}, page {page} of {per_page}")


@behaviour("order: pages of size 0 are empty and end at once")
async def size_zero(h: Harness) -> None:
    store = await thread_of(h, 3)
    for order in (None, "asc", "desc"):
        query = MessageQuery(thread_id="t1", per_page=0, order=order)
        found = await store.list_messages("ann", query)
        same(((), 3, False), (found.messages, found.total, found.has_more), f"order {order}")


@behaviour("order: the order of saving holds, whatever the clock said")
async def clocks(h: Harness) -> None:
    store = await h.fresh()
    base = h.clock()
    for n, shift in enumerate((0, 0, -3600, 7200, 0, -7200), start=1):
        at = base + timedelta(seconds=shift)
        await store.write_turn("ann", h.turn("t1", [h.message(str(n), created_at=at)], at=at))
    same(
        span(1, 6),
        texts(await store.list_messages("ann", MessageQuery(thread_id="t1"))),
        "in order of saving",
    )
    found = await store.list_messages("ann", MessageQuery(thread_id="t1", page=0, per_page=2))
    same(span(5, 6), texts(found), "the newest are those saved last")
    for order, expected in (("asc", span(1, 6)), ("desc", span(6, 1))):
        query = MessageQuery(thread_id="t1", order=cast(Direction, order))
        same(expected, texts(await store.list_messages("ann", query)), f"order {order}")
    state = await store.read_turn("ann", TurnQuery(thread_id="t1", last=2))
    same(span(5, 6), [message.text for message in state.history], "a turn reads those saved last")


@behaviour("order: messages of one instant keep the order of saving, and pages neither skip nor repeat")
async def ties(h: Harness) -> None:
    store = await h.fresh()
    at = h.clock()
    made = [h.message(str(n), id=f"{(n * 7) % 23:02}", created_at=at) for n in range(1, 23)]
    for n in range(0, 22, 2):
        await store.write_turn("ann", h.turn("t1", made[n : n + 2], at=at))
    for thread in ("t1", None):
        same(
            span(1, 22), texts(await store.list_messages("ann", MessageQuery(thread_id=thread))), "by saving"
        )
        for order, expected in (("asc", span(1, 22)), ("desc", span(22, 1))):
            seen: list[str] = []
            for page in range(8):
                query = MessageQuery(thread_id=thread, order=cast(Direction, order), page=page, per_page=3)
                seen += texts(await store.list_messages("ann", query))
            same(expected, seen, f"{order}: the pages together are all messages, each once")


@behaviour("order: time bounds include their ends unless told otherwise")
async def bounds(h: Harness) -> None:
    store = await h.fresh()
    first = h.clock()

    def at(n: int) -> datetime:
        return first + timedelta(microseconds=n)

    await store.write_turn("ann", h.turn("t1", [h.message(str(n), created_at=at(n)) for n in range(1, 10)]))
    for fields, expected in (
        ({"since": at(3)}, span(3, 9)),
        ({"since": at(3), "exclude_since": True}, span(4, 9)),
        ({"until": at(7)}, span(1, 7)),
        ({"until": at(7), "exclude_until": True}, span(1, 6)),
        ({"since": at(3), "until": at(7)}, span(3, 7)),
        ({"since": at(3), "until": at(7), "exclude_since": True, "exclude_until": True}, span(4, 6)),
        ({"since": at(5), "until": at(5)}, ["5"]),
        ({"since": at(5), "until": at(5), "exclude_until": True}, []),
        ({"since": at(7), "until": at(3)}, []),
        ({"exclude_since": True, "exclude_until": True}, span(1, 9)),
    ):
        for thread in ("t1", None):
            query = MessageQuery(thread_id=thread, **cast("dict[str, Any]", fields))
            found = await store.list_messages("ann", query)
            same(expected, texts(found), f"messages for {fields}")
            same((len(expected), False), (found.total, found.has_more), f"all matches for {fields}")
    query = MessageQuery(thread_id="t1", since=at(2), until=at(8), page=0, per_page=3)
    found = await store.list_messages("ann", query)
    same(
        (span(6, 8), 7, True), (texts(found), found.total, found.has_more), "a page of a range shows the rest"
    )


@behaviour("order: filters by role, speaker, run and metadata, all of which must hold")
async def filters(h: Harness) -> None:
    store = await h.fresh()
    ann, bob = Speaker(id="ann", name="Ann"), Speaker(id="bob", name="Ann")
    messages = [
        h.message("1", speaker=ann, run_id="r1", metadata={"k": 1}),
        h.message("2", role="assistant", run_id="r1", metadata={"k": 1}),
        h.message("3", speaker=bob, run_id="r2", metadata={"k": 2}),
        h.message("4", role="assistant", run_id="r2", metadata={"k": 1, "x": "y"}),
        h.message("5", speaker=ann),
    ]
    await store.write_turn("ann", h.turn("t1", messages))
    await store.write_turn(
        "ann", h.turn("t2", [h.message("other", speaker=ann, run_id="r1", metadata={"k": 1})])
    )
    for fields, expected in (
        ({"roles": ("user",)}, ["1", "3", "5"]),
        ({"roles": ("assistant",)}, ["2", "4"]),
        ({"roles": ("assistant", "user")}, span(1, 5)),
        ({"roles": ()}, span(1, 5)),
        ({"roles": ("system",)}, []),
        ({"speaker_id": "ann"}, ["1", "5"]),
        ({"speaker_id": "Ann"}, []),
        ({"run_id": "r1"}, ["1", "2"]),
        ({"run_id": "r1", "roles": ("user",)}, ["1"]),
        ({"metadata": {"k": 1}}, ["1", "2", "4"]),
        ({"metadata": {"k": 1, "x": "y"}}, ["4"]),
        ({"metadata": {"k": 1}, "run_id": "r2"}, ["4"]),
        ({"metadata": {"k": None}}, []),
    ):
        found = await store.list_messages(
            "ann", MessageQuery(thread_id="t1", **cast("dict[str, Any]", fields))
        )
        same((expected, len(expected)), (texts(found), found.total), f"messages for {fields}")
    found = await store.list_messages("ann", MessageQuery(run_id="r1"))
    same(["1", "2", "other"], texts(found), "without a thread, of all threads")
    query = MessageQuery(thread_id="t1", metadata={"k": 1}, per_page=2)
    found = await store.list_messages("ann", query)
    same((["2", "4"], 3, True), (texts(found), found.total, found.has_more), "pages count what matches")


@behaviour("order: a metadata filter matches exact types, and null only an explicit null")
async def typed_filters(h: Harness) -> None:
    store = await h.fresh()
    messages = [h.message(id=id_, metadata={"k": value, "o": 1}) for id_, value in KINDS.items()]
    messages.append(h.message(id="missing", metadata={"o": None, "nested": {"k": 1}}))
    messages.append(h.message(id="bare"))
    await store.write_turn("ann", h.turn("t1", messages))
    for value, expected in MATCHES:
        for thread in ("t1", None):
            found = await store.list_messages("ann", MessageQuery(thread_id=thread, metadata={"k": value}))
            same(sorted(expected), sorted([message.id for message in found]), f"filter k={value!r}")


@behaviour("order: messages of all threads, by their time")
async def across(h: Harness) -> None:
    store = await h.fresh()
    for n in range(1, 13):
        await store.write_turn("ann", h.turn(f"t{n % 3}", [str(n)]))
        await store.write_turn("bob", h.turn(f"t{n % 3}", [f"bob {n}"]))
    same(span(1, 12), texts(await store.list_messages("ann", MessageQuery())), "all, oldest first")
    found = await store.list_messages("ann", MessageQuery(page=1, per_page=5))
    same((span(3, 7), 12, True), (texts(found), found.total, found.has_more), "pages count from the newest")
    found = await store.list_messages("ann", MessageQuery(order="desc", per_page=4))
    same(span(12, 9), texts(found), "newest first")


@behaviour("order: a message of all threads stands by its time, not by when it was saved")
async def across_backdated(h: Harness) -> None:
    store = await h.fresh()
    base = h.clock()
    for text, seconds in (("2", 20), ("4", 40), ("1", 10), ("3", 30)):
        at = base + timedelta(seconds=seconds)
        await store.write_turn("ann", h.turn(f"t{text}", [h.message(text, created_at=at)]))
    same(span(1, 4), texts(await store.list_messages("ann", MessageQuery())), "by created_at")


@behaviour("order: a message saved again keeps its place and its time")
async def kept_place(h: Harness) -> None:
    store = await thread_of(h, 5)
    before = (await store.list_messages("ann", MessageQuery(thread_id="t1"))).messages
    await store.write_turn("ann", h.turn("t1", [h.message("two", id=before[1].id)]))
    for thread in ("t1", None):
        after = await store.list_messages("ann", MessageQuery(thread_id=thread))
        same(["1", "two", "3", "4", "5"], texts(after), "in its old place")
        same(before[1].created_at, after.messages[1].created_at, "with its old time")


@behaviour("order: an unknown thread is an empty page")
async def unknown(h: Harness) -> None:
    store = await thread_of(h, 3)
    for owner, thread in (("ann", "nowhere"), ("bob", "t1"), ("bob", None)):
        found = await store.list_messages(owner, MessageQuery(thread_id=thread, page=0, per_page=10))
        same(
            ((), 0, 0, 10, False),
            (found.messages, found.total, found.page, found.per_page, found.has_more),
            "none",
        )


@behaviour("order: a query that makes no sense is refused, never guessed at")
async def refused(h: Harness) -> None:
    store = await thread_of(h, 3)

    async def run(fields: dict[str, Any]) -> list[Message]:
        return list(await store.list_messages("ann", MessageQuery(thread_id="t1", **fields)))

    bad: list[dict[str, Any]] = [
        {"page": -1, "per_page": 2},
        {"page": 1.5, "per_page": 2},
        {"per_page": -1},
        {"per_page": 2.5},
        {"page": 1},
        {"order": "sideways"},
        {"order": "DESC"},
        {"since": "2026-01-01"},
        {"until": 5},
        {"metadata": {"a.b": 1}},
        {"metadata": {"k": [1]}},
    ]
    for fields in bad:
        await refuses(ValidationError, run(fields), f"MessageQuery({fields})")
