"""Listing threads: order, pages, filters."""

from __future__ import annotations

from typing import Any, cast

from ..._errors import ValidationError
from ..._types import Thread, ThreadPage
from ...stores.base import Store, ThreadQuery
from ._expect import holds, refuses, same
from ._harness import Harness
from ._registry import behaviour


def names(page: ThreadPage | list[Thread]) -> list[str]:
    """The ids of a page's threads, in its order."""
    return [thread.id for thread in page]


async def some(h: Harness, number: int) -> Store:
    """A store with threads t1..tn of "ann", one second apart."""
    store = await h.fresh()
    for n in range(1, number + 1):
        await store.create_thread("ann", h.thread(f"t{n}", metadata={"n": n, "even": n % 2 == 0}))
    return store


@behaviour("listing: newest created first, a hundred a page")
async def defaults(h: Harness) -> None:
    store = await some(h, 101)
    page = await store.list_threads("ann", ThreadQuery())
    same([f"t{n}" for n in range(101, 1, -1)], names(page), "the newest hundred, newest first")
    same(
        (101, 0, 100, True),
        (page.total, page.page, page.per_page, page.has_more),
        "the page describes itself",
    )
    same(await store.get_thread("ann", "t101"), page.threads[0], "a listed thread equals the one read by id")


@behaviour("listing: pages are counted from 0 and tell the total")
async def pages(h: Harness) -> None:
    store = await some(h, 5)
    found = [await store.list_threads("ann", ThreadQuery(page=n, per_page=2)) for n in range(4)]
    same([["t5", "t4"], ["t3", "t2"], ["t1"], []], [names(page) for page in found], "5 threads, 2 a page")
    same([5] * 4, [page.total for page in found], "every page knows the total, the one past the end too")
    same([True, True, False, False], [page.has_more for page in found], "has_more until the last page")
    same([(n, 2) for n in range(4)], [(page.page, page.per_page) for page in found], "as asked for")
    empty = await store.list_threads("bob", ThreadQuery())
    same(((), 0, False), (empty.threads, empty.total, empty.has_more), "an owner without threads has none")


@behaviour("listing: without paging all are listed")
async def unpaged(h: Harness) -> None:
    store = await some(h, 105)
    page = await store.list_threads("ann", ThreadQuery(per_page=None))
    same(105, len(page), "per_page=None lists all")
    same((105, 0, None, False), (page.total, page.page, page.per_page, page.has_more), "it is one page")


@behaviour("listing: pages of size 0 are empty and end at once")
async def size_zero(h: Harness) -> None:
    store = await some(h, 3)
    page = await store.list_threads("ann", ThreadQuery(per_page=0))
    same(((), 3, False), (page.threads, page.total, page.has_more), "a loop over has_more must end")


@behaviour("listing: by creation or by change, in both directions")
async def ordered(h: Harness) -> None:
    store = await some(h, 4)
    await store.update_thread("ann", "t2", h.change(title="x"))
    await store.write_turn("ann", h.turn("t1", ["hello"]))
    for field, ascending in (
        ("created_at", ["t1", "t2", "t3", "t4"]),
        ("updated_at", ["t3", "t4", "t2", "t1"]),
    ):
        for direction, expected in (("asc", ascending), ("desc", ascending[::-1])):
            query = ThreadQuery(order_by=cast(Any, field), direction=cast(Any, direction))
            same(expected, names(await store.list_threads("ann", query)), f"order by {field} {direction}")


@behaviour("listing: threads of one instant keep the order of creation, and pages lose none")
async def ties(h: Harness) -> None:
    store = await h.fresh()
    moment = h.clock()
    made = [f"{(n * 7) % 23:02}" for n in range(23)]  # ids whose own order is another
    for id_ in made:
        await store.create_thread("ann", h.thread(id_, at=moment))
    for field in ("created_at", "updated_at"):
        for direction, expected in (("asc", made), ("desc", made[::-1])):
            seen: list[str] = []
            for page in range(5):
                query = ThreadQuery(
                    page=page, per_page=5, order_by=cast(Any, field), direction=cast(Any, direction)
                )
                seen += names(await store.list_threads("ann", query))
            same(
                expected,
                seen,
                f"{field} {direction}: the pages together are all threads, each once, in order",
            )


@behaviour("listing: every pair of a metadata filter must match")
async def filters(h: Harness) -> None:
    store = await h.fresh()
    for id_, metadata in (
        ("both", {"status": "open", "team": "a"}),
        ("one", {"status": "open", "team": "b"}),
        ("none", {"status": "done", "team": "b"}),
        ("bare", {}),
    ):
        await store.create_thread("ann", h.thread(id_, metadata=metadata))
        await store.create_thread("bob", h.thread(id_, metadata=metadata))
    page = await store.list_threads("ann", ThreadQuery(metadata={"status": "open", "team": "a"}))
    same((["both"], 1, False), (names(page), page.total, page.has_more), "both pairs must match")
    page = await store.list_threads("ann", ThreadQuery(metadata={"status": "open"}, per_page=1))
    same((["one"], 2, True), (names(page), page.total, page.has_more), "total counts what matches")
    page = await store.list_threads("ann", ThreadQuery(metadata={"status": "open"}, per_page=1, page=1))
    same((["both"], 2, False), (names(page), page.total, page.has_more), "the second page of what matches")
    page = await store.list_threads("ann", ThreadQuery(metadata={"nowhere": "x"}))
    same(([], 0), (names(page), page.total), "nothing matches a key that nobody has")


# One thread each; the filter finds those whose names stand beside it and no other.
KINDS: dict[str, Any] = {
    "int": 1,
    "string": "1",
    "true": True,
    "float": 1.0,
    "null": None,
    "zero": 0,
    "false": False,
    "empty": "",
    "word": "true",
    "nullword": "null",
    "list": [1],
    "object": {"k": 1},
    "big": 2**53 + 1,
    "near": 2**53,
    "biggest": 2**63 - 1,
    "bigger": 2**63,
    "least": -(2**63),
    "half": 0.5,
    "tenth": 0.1,
    "unicode": "größe 🙂 日本",
    "quote": 'it\'s "q" \\ % _ $.k',
    "spaced": " 1",
    "case": "TRUE",
    "composed": "\u00e9",
    "decomposed": "e\u0301",
}
MATCHES: list[tuple[Any, set[str]]] = [
    (1, {"int", "float"}),
    (1.0, {"int", "float"}),
    ("1", {"string"}),
    (True, {"true"}),
    (False, {"false"}),
    (None, {"null"}),
    (0, {"zero"}),
    (0.0, {"zero"}),
    ("", {"empty"}),
    ("true", {"word"}),
    ("null", {"nullword"}),
    (2**53 + 1, {"big"}),
    (2**53, {"near"}),
    (2**63 - 1, {"biggest"}),
    (-(2**63), {"least"}),
    (0.5, {"half"}),
    (0.1, {"tenth"}),
    ("größe 🙂 日本", {"unicode"}),
    ('it\'s "q" \\ % _ $.k', {"quote"}),
    (" 1", {"spaced"}),
    ("TRUE", {"case"}),
    ("\u00e9", {"composed"}),
    ("e\u0301", {"decomposed"}),
    ("[1]", set()),
    ('{"k":1}', set()),
    ("é ", set()),
    (2, set()),
    (0.5000001, set()),
]


@behaviour("listing: a metadata filter matches exact types, and null only an explicit null")
async def typed_filters(h: Harness) -> None:
    store = await h.fresh()
    for id_, value in KINDS.items():
        await store.create_thread("ann", h.thread(id_, metadata={"k": value, "other": 1}))
    await store.create_thread("ann", h.thread("missing", metadata={"other": None, "nested": {"k": 1}}))
    for value, expected in MATCHES:
        page = await store.list_threads("ann", ThreadQuery(metadata={"k": value}, per_page=None))
        same(sorted(expected), sorted(names(page)), f"filter k={value!r} ({type(value).__name__})")
        same(len(expected), page.total, f"the total of filter k={value!r} ({type(value).__name__})")


@behaviour("listing: a filter for text that some database cannot hold finds exactly that, or is refused")
async def awkward_filters(h: Harness) -> None:
    store = await h.fresh()
    values = ["\x00", "a", "a\x00", "a\x00b", "\ud800", "\udfff", "?", "\ufffd", "🙂", "\ud83d"]
    for n, value in enumerate(values):
        await store.create_thread("ann", h.thread(f"t{n}", metadata={"k": value}))
    for n, value in enumerate(values):
        try:
            page = await store.list_threads("ann", ThreadQuery(metadata={"k": value}))
        except ValidationError:
            holds(not value.isprintable(), f"the filter k={value!r} must work")
            continue
        same([f"t{n}"], names(page), f"filter k={value!r}")
        same(1, page.total, f"the total of filter k={value!r}")


@behaviour("listing: a filter key means a key of that name, nothing deeper")
async def flat_keys(h: Harness) -> None:
    store = await h.fresh()
    await store.create_thread("ann", h.thread("flat", metadata={"a": 1, "K": 1, "_9": 1}))
    await store.create_thread("ann", h.thread("deep", metadata={"x": {"a": 1}, "b.a": 1, "k": 1}))
    for key, expected in (("a", ["flat"]), ("K", ["flat"]), ("k", ["deep"]), ("_9", ["flat"])):
        page = await store.list_threads("ann", ThreadQuery(metadata={key: 1}))
        same(expected, names(page), f"filter {key}=1")


BAD_QUERIES: list[dict[str, Any]] = [
    {"page": -1},
    {"page": 1.5},
    {"page": "1"},
    {"page": True},
    {"per_page": -1},
    {"per_page": 2.0},
    {"per_page": None, "page": 1},
    {"order_by": "title"},
    {"order_by": "created_at; DROP TABLE threads"},
    {"direction": "sideways"},
    {"direction": "DESC"},
    {"metadata": {"a.b": 1}},
    {"metadata": {"": 1}},
    {"metadata": {"a'": 1}},
    {"metadata": {'a"]': 1}},
    {"metadata": {"a" * 129: 1}},
    {"metadata": {"k": [1]}},
    {"metadata": {"k": {"x": 1}}},
    {"metadata": {"k": float("nan")}},
    {"metadata": {"k": 2**63}},
]


@behaviour("listing: a query that makes no sense is refused, never guessed at")
async def refused(h: Harness) -> None:
    store = await some(h, 2)

    async def run(fields: dict[str, Any]) -> object:
        return await store.list_threads("ann", ThreadQuery(**fields))

    for fields in BAD_QUERIES:
        await refuses(ValidationError, run(fields), f"ThreadQuery({fields})")
    same(2, (await store.list_threads("ann", ThreadQuery())).total, "and nothing happened to the threads")
